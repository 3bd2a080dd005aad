"""Steps beside each other: the same bytes, and nothing broken by what fails or is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import kanna
from kanna._util import bars
from kanna.recipes import step_memory, step_process, verbs
from kanna.recipes.records import Manifest, read_manifest

Write = Callable[..., Path]

MATRIX = """
variables: {model: ./tiny.gguf}
steps:
  small:
    verb: convert
    for: {preset: [Q8_0, Q4_0, Q5_K_M, Q2_K]}
    with: {source: "${model}", preset: "${preset}"}
  about:
    verb: inspect
    with: {source: "${small}"}
outputs: {files: "${small.*}"}
"""
_OF_A_RUN = {"seconds", "started", "mtime_ns", "peak_bytes", "notes", "folder"}
"""What differs between two runs of the same."""


def steady(value: Any) -> Any:
    """A manifest without times, and without what depends on other programs."""
    if isinstance(value, dict):
        return {name: steady(one) for name, one in value.items() if name not in _OF_A_RUN}
    return [steady(one) for one in value] if isinstance(value, list) else value


def manifest(folder: Path) -> Manifest:
    made = read_manifest(folder)
    assert made is not None
    return made


def workers(parent: int) -> list[psutil.Process]:
    """Processes that perform steps for a run."""
    try:
        below = psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [one for one in below if step_process.MODULE in " ".join(one.cmdline())]


def left(folder: Path) -> list[Path]:
    """What is there of steps that did not end."""
    ends = (".partial", "-lock")
    return [path for path in folder.rglob("*") if path.name.endswith(ends)]


def test_two_at_a_time_make_what_one_after_another_makes(write: Write, tmp_path: Path) -> None:
    path = write(MATRIX)
    remarks: list[str] = []
    one = kanna.run(path, tmp_path / "one", jobs=1)
    two = kanna.run(path, tmp_path / "two", jobs=2, threads=2, remark=remarks.append)
    assert one.ok and two.ok and [s.id for s in one.steps] == [s.id for s in two.steps]
    first, second = (steady(manifest(tmp_path / name).model_dump()) for name in ("one", "two"))
    assert first == second and len(first["files"]) == 4  # with their SHA-256
    names = [sorted(p.name for p in (tmp_path / n).rglob("*")) for n in ("one", "two")]
    assert names[0] == names[1]
    again = kanna.run(path, tmp_path / "two", jobs=1)
    assert again.count("kept") == len(again.steps)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[str]]]:
    """Which steps ran beside each other, at every begin of one."""
    from kanna.recipes.steps_beside import StepsBeside

    seen: list[set[str]] = []
    begin = StepsBeside._begin  # pyright: ignore[reportPrivateUsage]

    def noted(self: StepsBeside, *given: Any) -> None:
        begin(self, *given)
        seen.append(set(self._running))  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(StepsBeside, "_begin", noted)
    yield seen


def test_memory_bounds_what_runs_beside_each_other(
    write: Write, tmp_path: Path, spied: list[set[str]]
) -> None:
    path = write(MATRIX)
    remarks: list[str] = []
    options = {"parallel": 3, "memory_gb": 0.5}  # of a streamed conversion: 0.3 GB
    result = kanna.run(path, tmp_path / "out", on_set=options, remark=remarks.append)
    assert result.ok and max(map(len, spied)) == 1
    assert any("waits: it takes about" in one for one in remarks)
    spied.clear()
    assert kanna.run(path, tmp_path / "more", jobs=3).ok
    assert max(map(len, spied)) == 3


def test_what_measures_runs_alone(write: Write, tmp_path: Path, spied: list[set[str]]) -> None:
    path = write(
        """
steps:
  one: {verb: inspect, with: {source: tiny.gguf}}
  two: {verb: inspect, with: {source: ./tiny.gguf}}
  fits: {verb: fit, with: {source: tiny.gguf, memory: 1GB, context: 512}}
  three: {verb: convert, with: {source: tiny.gguf, preset: Q8_0}}
"""
    )
    assert kanna.run(path, tmp_path / "out", jobs=4).ok
    assert all(len(one) == 1 for one in spied if "fits" in one) and {"one", "two"} in spied


def test_a_step_that_fails_lets_the_others_end(write: Write, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:1000])
    path = write(
        """
steps:
  small:
    verb: convert
    for: {model: [broken.gguf, tiny.gguf]}
    with: {source: "${model}", preset: Q8_0}
  about: {verb: inspect, with: {source: "${small}"}}
"""
    )
    result = kanna.run(path, tmp_path / "out", jobs=2)
    made = {one.id: one.state for one in result.steps}
    assert list(made.values()) == ["failed", "blocked", "done", "done"], made
    assert result.exit_code == 1 and result.steps[0].error is not None


def test_a_process_that_dies_is_a_failed_step(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanna.recipes.steps_beside import StepsBeside

    begin = StepsBeside._begin  # pyright: ignore[reportPrivateUsage]

    def killed(self: StepsBeside, call: Any, needs: int) -> None:
        begin(self, call, needs)
        if call.instance.id == "small-Q4_0":
            one = self._running["small-Q4_0"]  # pyright: ignore[reportPrivateUsage]
            os.kill(one.process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(StepsBeside, "_begin", killed)
        result = kanna.run(write(MATRIX), tmp_path / "out", jobs=2)
    failed = [one for one in result.steps if one.state == "failed"]
    assert [one.id for one in failed] == ["small-Q4_0"] and result.count("done") == 6
    assert failed[0].error is not None and "ended with code -9" in failed[0].error.found
    assert not left(tmp_path / "out")
    again = kanna.run(tmp_path / "recipe.yaml", tmp_path / "out", jobs=2)
    assert again.ok and again.count("kept") == 6


def test_only_later_steps_are_stopped(write: Write, tmp_path: Path) -> None:
    # The second ends before the first pair does: what is earlier in the recipe runs all the same.
    path = write(
        """
steps:
  small: {verb: convert, with: {source: tiny.gguf, preset: Q2_K}}
  about: {verb: inspect, with: {source: "${small}"}}
  quick: {verb: inspect, stop_when: quick.parameters > 10, with: {source: tiny.gguf}}
  last: {verb: inspect, with: {source: tiny.gguf}}
"""
    )
    results = [kanna.run(path, tmp_path / f"{n}", jobs=n) for n in (1, 3)]
    made = [{one.id: one.state for one in result.steps} for result in results]
    assert made[0] == made[1] and made[0]["about"] == "done" and made[0]["last"] == "stopped"


def started(tmp_path: Path) -> subprocess.Popen[str]:
    """A run of four conversions, two of which are under way."""
    words = [sys.executable, "-m", "kanna", "run", "recipe.yaml", "-o", "out", "--jobs", "2"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not list((tmp_path / "out/steps").glob("*/step.json")):
        time.sleep(0.005)
    assert process.poll() is None
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_and_goes_on(
    write: Write, tmp_path: Path, number: signal.Signals
) -> None:
    path = write(MATRIX.replace("Q8_0, Q4_0", "Q8_0, Q4_0, Q6_K, Q3_K_M, Q4_K_M, Q5_0"))
    process = started(tmp_path)
    performing = workers(process.pid)
    assert len(performing) == 2
    os.kill(process.pid, number)  # it alone, not the processes of its steps
    _, errors = process.communicate(timeout=60)
    gone, alive = psutil.wait_procs(performing, timeout=10)
    assert len(gone) == 2 and not alive
    if number != signal.SIGKILL:
        assert process.returncode == (130 if number == signal.SIGINT else 143), errors
        assert not left(tmp_path / "out")
    result = kanna.run(path, tmp_path / "out", jobs=2)
    assert result.ok and result.count("kept") >= 1 and not left(tmp_path / "out")


def test_a_dry_run_says_what_each_step_takes(write: Write, tmp_path: Path) -> None:
    path = write(
        """
steps:
  small: {verb: convert, with: {source: tiny.gguf, preset: Q8_0}}
  quality: {verb: evaluate, with: {artefact: "${small}", reference: tiny.gguf, text: other.txt}}
  graph: {verb: convert, with: {source: tiny.gguf, format: onnx, preset: int4}}
"""
    )
    planned = kanna.run(path, tmp_path / "out", dry_run=True).planned
    takes = {one.id: one.predicted.step_bytes or 0 for one in planned}
    assert 0 < takes["small"] < takes["quality"] < takes["graph"]
    weights = kanna.inspect(tmp_path / "tiny.gguf").parameters
    reads = {"artefact": str(tmp_path / "tiny.gguf")}
    assert step_memory.weights(verbs.get("evaluate"), reads) == weights
    (tmp_path / "odd.gguf").write_bytes(b"no model")
    assert step_memory.weights(verbs.get("inspect"), {"source": str(tmp_path / "odd.gguf")}) == 16


def test_progress_of_several_steps_is_shown_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bars.Bars()
    both = [bars.beside(whole, name) for name in ("one", "two")]
    for one in both:
        one.start("convert", 10)
        one.advance(5)
    drawn = whole._bars  # pyright: ignore[reportPrivateUsage]
    assert [task.description for task in drawn.tasks] == ["one: convert", "two: convert"]
    both[0].finish()
    assert [task.description for task in drawn.tasks] == ["two: convert"] and drawn.live.is_started
    both[1].finish()
    assert not drawn.tasks and not drawn.live.is_started
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    line = bars.beside(bars.Lines(), "one")
    line.start("convert", 10)
    line.advance(5)
    assert "one: convert: 5 B of 10 B" in capsys.readouterr().err
