"""Searches over variables of a recipe, by Optuna."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("optuna")

import kanna  # noqa: E402
from kanna.optimization import adapters  # noqa: E402
from kanna.recipes import RecipeError, RunResult, records, step_run  # noqa: E402
from kanna.recipes.search import STUDY  # noqa: E402

Write = Callable[..., Path]

RECIPE = """
variables: {preset: Q8_0, exclude: none}
steps:
  source: {verb: inspect, with: {source: tiny.gguf}}
  small:
    verb: convert
    with: {source: tiny.gguf, preset: "${preset}"}
  about: {verb: inspect, with: {source: "${small}"}}
search:
  trials: 4
  seed: 3
  space: {preset: [Q2_K, Q3_K_S, Q4_0, Q5_0, Q6_K, Q8_0]}
  goals: {small.file_bytes: minimize, about.bits_per_weight: maximize}
"""


def tried(result: RunResult) -> list[object]:
    return [trial.values["preset"] for trial in result.trials]


def test_a_search_tries_each_once_and_goes_on(write: Write, tmp_path: Path) -> None:
    first = kanna.run(write(RECIPE), tmp_path / "out")
    assert len(set(tried(first))) == 4 and all(trial.best for trial in first.trials)
    assert first.count("done") == 1 + 2 * 4  # the source is looked at once
    kept = kanna.run(tmp_path / "recipe.yaml", tmp_path / "out")
    assert tried(kept) == tried(first) and not kept.count("done")
    more = kanna.run(
        write(RECIPE.replace("trials: 4", "trials: 9")), tmp_path / "out"
    )  # there are six
    assert tried(more)[:4] == tried(first) and len(set(tried(more))) == len(tried(more)) == 6
    assert more.count("done") == 2 * 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "★ 1" in page and "small.file_bytes" in page and page.count("<svg") == 2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["finished"] and len(manifest["files"]) == 6 == len(manifest["outputs"]["best"])


def test_the_same_seed_tries_the_same(write: Write, tmp_path: Path) -> None:
    path = write(RECIPE.replace("[Q2_K, Q3_K_S, Q4_0, Q5_0, Q6_K, Q8_0]", "[Q4_0, Q5_0, Q8_0]"))
    one, two = (kanna.run(path, tmp_path / name) for name in ("one", "two"))
    assert tried(one) == tried(two) and len(tried(one)) == 3


def test_what_breaks_a_constraint_is_not_best(write: Write, tmp_path: Path) -> None:
    text = RECIPE.replace("trials: 4", "trials: 6").replace(
        "  goals:", "  constraints: [about.bits_per_weight > 5, preset != 'Q8_0']\n  goals:"
    )
    result = kanna.run(write(text), tmp_path / "out")
    best = {trial.values["preset"] for trial in result.trials if trial.best}
    assert best == {trial.values["preset"] for trial in result.trials if trial.feasible}
    assert best and best <= {"Q5_0", "Q6_K"}


def test_a_dominated_trial_is_not_best(write: Write, tmp_path: Path) -> None:
    text = RECIPE.replace("trials: 4", "trials: 6").replace("maximize", "minimize")
    result = kanna.run(write(text), tmp_path / "out")
    assert [trial.values["preset"] for trial in result.trials if trial.best] == ["Q2_K"]


def test_a_condition_ends_a_trial_early(write: Write, tmp_path: Path) -> None:
    text = RECIPE.replace("trials: 4", "trials: 6").replace(
        "  about: {verb: inspect,", "  about: {verb: inspect, when: small.bits_per_weight < 5,"
    )
    result = kanna.run(write(text), tmp_path / "out")
    assert result.ok
    assert {t.state for t in result.trials if t.values["preset"] in ("Q6_K", "Q8_0")} == {"skipped"}
    assert {t.state for t in result.trials if t.values["preset"] == "Q2_K"} == {"done"}


def test_a_trial_that_fails_does_not_end_the_others(write: Write, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:1000])
    text = (
        RECIPE.replace("preset: Q8_0,", "model: tiny.gguf,")
        .replace('{source: tiny.gguf, preset: "${preset}"}', '{source: "${model}", preset: Q8_0}')
        .replace(
            "preset: [Q2_K, Q3_K_S, Q4_0, Q5_0, Q6_K, Q8_0]", "model: [broken.gguf, tiny.gguf]"
        )
    )
    result = kanna.run(write(text), tmp_path / "out")
    assert {t.values["model"]: t.state for t in result.trials} == {
        "broken.gguf": "failed",
        "tiny.gguf": "done",
    }
    assert result.exit_code == 1


def test_an_interrupted_search_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = write(RECIPE), list[object]()
    call = step_run._call  # pyright: ignore[reportPrivateUsage]

    def interrupted(*given: object) -> object:
        calls.append(given)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return call(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(step_run, "_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kanna.run(path, tmp_path / "out")
    result = kanna.run(path, tmp_path / "out")
    assert len(result.trials) == len(set(tried(result))) == 4
    assert (tmp_path / "out" / STUDY).is_file()


@pytest.mark.parametrize("format", adapters.names())
def test_a_trial_begins_with_what_another_measured_in_its_format(
    format: str, tmp_path: Path
) -> None:
    before, after = tmp_path / "small-1" / "small-1", tmp_path / "small-2" / "small-2"
    place: Any = SimpleNamespace(format=format, workspace=SimpleNamespace(folder=before))
    left = [adapters.get(format).file(place, name) for name in ("measure.json", "probe.json")]
    left += [before / "statistics" / "values.npy", before / ".kanna-compare.json"]
    (before / "statistics").mkdir(parents=True)
    for path in (*left, before / "plan.json", before.parent / records.STARTED):
        path.write_text("{}", encoding="utf-8")
    call = step_run.StepCall.of(
        name="small-2", step="small", verb="optimize", key="", folder=after.parent, options={}
    )
    step_run._begin_with_others(call, after.parent)  # pyright: ignore[reportPrivateUsage]
    given = {path.relative_to(after) for path in after.rglob("*") if path.is_file()}
    assert given == {path.relative_to(before) for path in left}
    assert all(path.samefile(after / path.relative_to(before)) for path in left)


def test_ranges_are_searched(write: Write, tmp_path: Path) -> None:
    text = """
variables: {context: 1024}
steps:
  room: {verb: fit, with: {source: tiny.gguf, memory: 10GB, context: "${context}"}}
search:
  trials: 4
  space: {context: {low: 128, high: 512, step: 128}}
  goals: {room.memory: minimize}
"""
    result = kanna.run(write(text), tmp_path / "out")
    assert len(result.trials) == 4
    assert {trial.values["context"] for trial in result.trials} <= {128, 256, 384, 512}


WRONG = {
    "an unknown variable": ("space: {preset:", "space: {presett:", 12, "did you mean preset?"),
    "no values": ("[Q2_K, Q3_K_S, Q4_0, Q5_0, Q6_K, Q8_0]", "[]", 12, "no values"),
    "an unknown preset": ("Q3_K_S", "Q3_K_X", 7, "Q3_K_X"),
    "an unknown figure": ("small.file_bytes", "small.file_byte", 13, "did you mean file_bytes?"),
    "an unknown step": ("small.file_bytes", "smal.file_bytes", 13, "did you mean small?"),
    "an unknown direction": ("file_bytes: minimize", "file_bytes: smaller", 13, "smaller"),
    "no goals": (
        "{small.file_bytes: minimize, about.bits_per_weight: maximize}",
        "{}",
        9,
        "goals",
    ),
    "no trials": ("trials: 4", "trials: 0", 10, "trials"),
    "a constraint that is none": ("  goals:", "  constraints: ['open()']\n  goals:", 13, "open()"),
    "limits the wrong way round": (
        "[Q2_K, Q3_K_S, Q4_0, Q5_0, Q6_K, Q8_0]",
        "{low: 3, high: 2}",
        7,
        "preset",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_search_is_refused_with_its_line(name: str, write: Write, tmp_path: Path) -> None:
    before, after, line, words = WRONG[name]
    assert before in RECIPE
    with pytest.raises(RecipeError) as caught:
        kanna.run(write(RECIPE.replace(before, after, 1)), tmp_path / "out")
    assert words in str(caught.value)
    assert caught.value.problems[0].place.line == line, str(caught.value)
    assert not (tmp_path / "out").exists()
