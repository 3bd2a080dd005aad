"""Recipes run: caches, matrices, conditions, failures, includes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kanna
from kanna.recipes import RunResult, step_run

Write = Callable[..., Path]

MATRIX = """
variables:
  model: ./tiny.gguf
  presets: [Q8_0, Q4_0]
steps:
  small:
    verb: convert
    for: {preset: "${presets}"}
    with: {source: "${model}", preset: "${preset}"}
  about:
    verb: inspect
    with: {source: "${small}"}
outputs:
  files: ${small}
"""


def states(result: RunResult) -> dict[str, str]:
    return {step.id: step.state for step in result.steps}


def test_a_matrix_runs_once_and_then_not_again(write: Write, tmp_path: Path) -> None:
    path = write(MATRIX)
    first = kanna.run(path, tmp_path / "out")
    assert list(states(first)) == ["small-Q8_0", "about-Q8_0", "small-Q4_0", "about-Q4_0"]
    assert set(states(first).values()) == {"done"} and first.ok
    bits = [
        float(str(step.figures["bits_per_weight"])) for step in first.steps if step.step == "about"
    ]
    assert bits == sorted(bits, reverse=True)
    whole = kanna.convert(tmp_path / "tiny.gguf", tmp_path / "own.gguf", preset="Q4_0")
    made = [Path(p) for p in first.outputs["files"]]
    assert made[1].read_bytes() == whole.paths[0].read_bytes()
    again = kanna.run(path, tmp_path / "out")
    assert set(states(again).values()) == {"kept"}
    assert [s.figures for s in again.steps] == [s.figures for s in first.steps]


def test_a_manifest_says_what_was_read_and_made(write: Write, tmp_path: Path) -> None:
    from kanna._util.digest import sha256

    kanna.run(write(MATRIX), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["finished"] and manifest["environment"]["kanna"] == kanna.__version__
    (source,) = manifest["inputs"]
    assert source["files"][0]["sha256"] == sha256(tmp_path / "tiny.gguf")
    files = {f["name"]: f["sha256"] for f in manifest["files"]}
    assert list(files) == ["steps/small-Q8_0/small-Q8_0.gguf", "steps/small-Q4_0/small-Q4_0.gguf"]
    assert all(sha256(tmp_path / "out" / name) == digest for name, digest in files.items())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "small-Q4_0.gguf" in page and "<script" not in page


def test_only_what_changed_runs_again(write: Write, tmp_path: Path) -> None:
    path = write(MATRIX)
    kanna.run(path, tmp_path / "out")
    more = kanna.run(path, tmp_path / "out", set=["presets=[Q8_0, Q5_0]"])
    assert [step.id for step in more.steps if step.state == "done"] == ["small-Q5_0", "about-Q5_0"]
    (tmp_path / "out/steps/small-Q8_0/small-Q8_0.gguf").unlink()
    lost = kanna.run(path, tmp_path / "out")
    assert [step.id for step in lost.steps if step.state == "done"] == ["small-Q8_0"]
    content = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").unlink()
    (tmp_path / "tiny.gguf").write_bytes(content)  # the same bytes at another time
    assert set(states(kanna.run(path, tmp_path / "out")).values()) == {"kept"}
    (tmp_path / "tiny.gguf").write_bytes(content[:-2] + b"\x01\x02")
    assert set(states(kanna.run(path, tmp_path / "out")).values()) == {"done"}


def test_a_step_that_fails_does_not_end_the_others(write: Write, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    path = write(
        """
steps:
  small:
    verb: convert
    for: {model: [broken.gguf, tiny.gguf]}
    with: {source: "${model}", preset: Q8_0}
  about:
    verb: inspect
    with: {source: "${small}"}
  fits:
    verb: bench
    when: about.bits_per_weight < 1
    with: {paths: "${small.*}"}
  all:
    verb: inspect
    when: 1 > 2
    with: {source: tiny.gguf}
"""
    )
    broken.write_bytes((tmp_path / "tiny.gguf").read_bytes()[:1000])
    result = kanna.run(path, tmp_path / "out")
    assert states(result) == {
        "all": "skipped",
        "small-broken.gguf": "failed",
        "about-broken.gguf": "blocked",
        "fits-broken.gguf": "blocked",
        "small-tiny.gguf": "done",
        "about-tiny.gguf": "done",
        "fits-tiny.gguf": "skipped",
    }
    assert not result.ok and result.exit_code == 1
    error = next(step.error for step in result.steps if step.state == "failed")
    assert error is not None and error.found
    assert error.found.split(":")[0] in (tmp_path / "out" / "report.html").read_text()
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.endswith((".partial", "-lock"))]
    again = kanna.run(path, tmp_path / "out")  # what failed is tried again, the rest is kept
    assert states(again)["small-broken.gguf"] == "failed"
    assert states(again)["small-tiny.gguf"] == "kept"


def test_a_matrix_stops_when_its_goal_is_reached(write: Write, tmp_path: Path) -> None:
    path = write(
        MATRIX.replace("[Q8_0, Q4_0]", "[Q4_0, Q5_0, Q8_0]").replace(
            "  about:\n", "  about:\n    stop_when: about.bits_per_weight > 5\n"
        )
    )
    for _ in range(2):
        result = kanna.run(path, tmp_path / "out")
        assert [step.state for step in result.steps][4:] == ["stopped", "stopped"]
        assert [Path(p).name for p in result.outputs["files"]] == [
            "small-Q4_0.gguf",
            "small-Q5_0.gguf",
        ]


def test_a_step_without_a_matrix_stops_the_rest(write: Write, tmp_path: Path) -> None:
    path = write(
        """
steps:
  one: {verb: inspect, stop_when: one.parameters > 10, with: {source: tiny.gguf}}
  two: {verb: inspect, with: {source: tiny.gguf}}
"""
    )
    assert states(kanna.run(path, tmp_path / "out")) == {"one": "done", "two": "stopped"}


def test_recipes_include_others(write: Write, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.gguf").symlink_to(tmp_path / "tiny.gguf")
    write(
        """
variables: {model: ./model.gguf, preset: Q4_0}
steps:
  small:
    verb: convert
    with: {source: "${model}", preset: "${preset}"}
""",
        "parts/small.yaml",
    )
    path = write(
        """
include: [parts/small.yaml, parts/small.yaml]
variables: {preset: Q8_0}
steps:
  about: {verb: inspect, with: {source: "${small}"}}
"""
    )
    result = kanna.run(path, tmp_path / "out")
    assert states(result) == {"small": "done", "about": "done"}
    assert float(str(result.steps[1].figures["bits_per_weight"])) > 8


def test_a_file_of_two_steps_is_hashed_once(write: Write, tmp_path: Path) -> None:
    result = kanna.run(write(MATRIX), tmp_path / "out")
    assert result.ok
    assert len(json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]) == 1


def test_a_mistake_in_a_verb_is_a_failed_step(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(step_run, "_call", fail)
    result = kanna.run(write(MATRIX), tmp_path / "out")
    assert result.steps[0].error is not None and "no such luck" in result.steps[0].error.found
    assert "no such luck" in (tmp_path / "out/steps/small-Q8_0/error.txt").read_text()


def test_variables_refer_to_variables(write: Write, tmp_path: Path) -> None:
    path = write(
        """
variables: {file: "${folder}/tiny.gguf", folder: ., name: tiny}
steps:
  one: {verb: inspect, with: {source: "${file}"}}
  two: {verb: inspect, with: {source: "./${name}.gguf"}}
"""
    )
    assert kanna.run(path, tmp_path / "out").ok


def test_what_others_put_in_the_folder_is_no_step(write: Write, tmp_path: Path) -> None:
    path, steps = write(MATRIX), tmp_path / "out" / "steps"
    steps.mkdir(parents=True)
    (tmp_path / "out" / "manifest.json").write_text("[]")
    (steps / "small-Q8_0").write_text("a file")
    (steps / "about-Q8_0").symlink_to(tmp_path)
    (steps / "small-Q4_0").mkdir()
    (steps / "small-Q4_0" / "step.json").write_text('{"key": 1}')
    assert set(states(kanna.run(path, tmp_path / "out")).values()) == {"done"}
    assert (tmp_path / "tiny.gguf").is_file()


def test_an_interrupted_run_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = write(MATRIX), list[object]()
    call = step_run._call  # pyright: ignore[reportPrivateUsage]

    def interrupted(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(step_run, "_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kanna.run(path, tmp_path / "out")
    assert not json.loads((tmp_path / "out/manifest.json").read_text())["finished"]
    assert sorted(p.name for p in (tmp_path / "out/steps").iterdir()) == [
        "about-Q8_0",
        "small-Q8_0",
    ]
    result = kanna.run(path, tmp_path / "out")
    assert list(states(result).values()) == ["kept", "kept", "done", "done"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_run_that_was_killed_goes_on(write: Write, tmp_path: Path) -> None:
    path = write(MATRIX.replace("[Q8_0, Q4_0]", "[Q8_0, Q4_K_M, Q5_K_M, Q2_K]"))
    words = [sys.executable, "-m", "kanna", "run", str(path), "-o", "out"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "out/steps/small-Q8_0/step.json").is_file():
        time.sleep(0.005)
    process.kill()
    process.wait()
    result = kanna.run(path, tmp_path / "out")
    assert result.ok and result.count("kept") >= 1
    left = [p for p in tmp_path.rglob("*") if p.name.endswith((".partial", "-lock"))]
    assert not left


def test_a_dry_run_predicts_and_makes_nothing(write: Write, tmp_path: Path) -> None:
    result = kanna.run(write(MATRIX), tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists() and not result.steps
    planned = {step.id: step for step in result.planned}
    real = kanna.convert(tmp_path / "tiny.gguf", dry_run=True, preset="Q4_0").file_bytes
    assert planned["small-Q4_0"].predicted.file_bytes == real
    assert (planned["small-Q4_0"].predicted.memory_bytes or 0) > real
    assert planned["about-Q4_0"].needs == ("small-Q4_0",)


def test_the_command_line(write: Write, tmp_path: Path) -> None:
    path = write(MATRIX)

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "kanna", "run", path.name, *more]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)

    shown = run("--dry-run")
    assert shown.returncode == 0 and "small" in shown.stdout and "Nothing was run" in shown.stdout
    made = run("--json", "--set", "presets=[Q8_0]")
    assert made.returncode == 0 and json.loads(made.stdout)["ran"] == 2
    assert (tmp_path / "recipe-run" / "manifest.json").is_file()
    wrong = run("--set", "presets=[Q8_X]")
    assert wrong.returncode == 2 and "recipe.yaml:9" in wrong.stderr
