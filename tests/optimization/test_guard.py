"""`kanna optimize --guard`: a file that surely loses a task is not one to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import needs

from kanna import convert, optimize
from kanna._util.units import format_size
from kanna.errors import UsageError
from kanna.optimization import guard_spending, measure
from kanna.optimization.adapters.gguf import GGUFAdapter
from kanna.optimization.guard import guard_tokens, open_guard, refuse_silent
from kanna.tasks.pairing import TaskScore

needs.llama_cpp()
pytest.importorskip("torch")

from helpers import hard_questions, optimizing, tiny_models  # noqa: E402 - needs torch


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", ("q2_k", "q4_0", "q4_k", "q8_0", "f16"))
        patch.setattr(tiny_models, "SMALL", tiny_models.SMALL | {"num_hidden_layers": 2})
        home = optimizing.fill(tmp_path_factory.mktemp("guard"))
        hard_questions.write(home / "q.jsonl", home / "tiny")
        yield home


def asked(home: Path, *words: str, tolerance: str = "0.1") -> Any:
    """Run `kanna optimize` at the size of Q2_K, which loses the task."""
    guard = ["--guard", f"choice:{home / 'q.jsonl'}:{tolerance}"]
    return optimizing.invoke(home, "--effort", "fast", "--like", "Q2_K", *guard, *words)


def told(done: Any) -> dict[str, Any]:
    """The result of a run; what it said where it has none."""
    assert done.stdout, f"{done.exit_code} {done.exception!r} {done.stderr}"
    return json.loads(done.stdout)


def test_a_guard_spends_bytes_until_the_task_holds(home: Path) -> None:
    done = asked(home)
    assert done.exit_code == 0, done.stderr + done.output
    result = told(done)
    guard, [score] = result["guard"], result["tasks"]
    assert guard["held"] and guard["spent_bytes"] == result["file_bytes"] - result["budget"] > 0
    assert result["gate"] == "proved" and score["loss_ci"][0] <= 0.1
    artefact = Path(result["artefact"])
    assert artefact.name == "tiny-guarded.gguf" and artefact.stat().st_size == result["file_bytes"]
    steps = guard["steps"]
    assert steps[0]["held"] and steps[0]["budget"] == guard["most_bytes"]
    assert 1 < len(steps) <= guard_spending.most_files(result["budget"], guard["most_bytes"])
    held = [step["file_bytes"] for step in steps if step["held"]]
    assert min(held) == result["file_bytes"] < guard["most_bytes"]
    lost = [step["budget"] for step in steps if not step["held"]]
    between = min(held) - max([*lost, result["budget"]])
    assert all(size < min(held) for size in lost) and between <= guard_spending.STEP * min(held)
    assert result["advice"] is None and f"{len(steps)} files tried" in guard["why"]
    report = json.loads(Path(result["report"]).with_suffix(".json").read_text("utf-8"))
    assert report["recommended"]["name"] == "guarded"
    page = Path(result["report"]).read_text("utf-8")
    assert "<h2>Behaviour</h2>" in page and "now wrong" in page and "The guard took" in page
    plan = json.loads(Path(result["plan"]).read_text("utf-8"))
    assert Path(result["plan"]).name == "guarded.json" and plan["rules"]
    again = home / "again.gguf"
    convert(home / "tiny", again, plan=result["plan"], statistics=result["statistics"])
    assert again.read_bytes() == artefact.read_bytes()


def test_a_run_that_was_ended_goes_on_from_what_was_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = told(asked(home))
    written: list[Path] = []
    rewrite = GGUFAdapter.rewrite

    def noted(self: GGUFAdapter, plan: Path, out: Path, before: Path) -> None:
        written.append(out)
        rewrite(self, plan, out, before)

    monkeypatch.setattr(GGUFAdapter, "rewrite", noted)
    second = told(asked(home))
    assert not written and second["guard"] == first["guard"]
    state = home / "out" / "guard.json"
    data = json.loads(state.read_text("utf-8"))
    data["steps"] = data["steps"][:1]  # as after the first file
    state.write_text(json.dumps(data), encoding="utf-8")
    bytes_ = Path(first["artefact"]).read_bytes()
    Path(first["artefact"]).unlink()
    third = told(asked(home))
    assert third["guard"]["steps"] == first["guard"]["steps"]
    assert Path(third["artefact"]).read_bytes() == bytes_
    assert not [*(home / "out").glob("*trial*")]


def test_a_guard_that_cannot_be_held_says_so_and_what_to_do(home: Path) -> None:
    free = told(asked(home))
    lost = asked(home, "--size-max", f"{free['budget'] * 5 // 4}B", tolerance="0.02")
    assert lost.exit_code == 1, lost.stderr + lost.output
    result = told(lost)
    guard, [score] = result["guard"], result["tasks"]
    assert guard["held"] is False and len(guard["steps"]) == 1 and guard["spent_bytes"] == 0
    assert "cannot be held" in guard["why"] and "raise --size-max" in guard["todo"]
    assert result["gate"] == "failed" and score["loss_ci"][0] > 0.02, score
    assert result["file_bytes"] <= result["budget"] and Path(result["artefact"]).is_file()
    assert len(score["flips"]) == score["lost"]
    page = Path(result["report"]).read_text("utf-8")
    assert f"<summary>{format_size(guard['steps'][0]['file_bytes'])}: " in page, "its flips too"
    report = json.loads(Path(result["report"]).with_suffix(".json").read_text("utf-8"))
    assert all(row["gate"] == "failed" for row in report["rows"] if row["tasks"])
    assert "--guard" in report["command"] and "--size-max" in report["command"]
    none = told(asked(home, "--size-max", f"{free['budget']}B"))["guard"]
    assert not none["steps"] and "no larger file is allowed" in none["why"]


def test_a_guard_that_holds_spends_nothing(home: Path) -> None:
    result = told(asked(home, tolerance="0.9"))
    guard = result["guard"]
    assert guard["held"] and not guard["steps"] and guard["spent_bytes"] == 0
    assert result["file_bytes"] <= result["budget"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--size", "1MB", "--size-max", "2MB"], "none was given"),
        (["--guard", "maths", "--size", "2MB", "--size-max", "1MB"], "at least --size"),
        (["--guard", "maths", "--memory", "2GB", "--size-max", "3GB"], "given together"),
    ],
)
def test_a_largest_size_that_means_nothing(home: Path, words: list[str], problem: str) -> None:
    done = optimizing.invoke(home, *words, out="none")
    assert done.exit_code == 2 and problem in done.stderr, done.stderr
    assert not (home / "none").exists()


def test_only_a_sure_loss_fails() -> None:
    guard = open_guard(["maths:0.05"], 4)
    assert guard
    score = TaskScore(name="maths", summary="", examples=50, reference_solved=40, solved=38)
    for interval, ok in (((-0.02, 0.1), True), ((0.05, 0.2), True), ((0.06, 0.2), False)):
        check = guard.check(replace(score, loss=0.04, loss_ci=interval))
        assert check.ok is ok and "5 points may be lost" in check.detail
    assert guard.check(replace(score, reference_solved=0, loss=0, loss_ci=(0, 0))).ok is None
    assert "no template" in guard.check(replace(score, skipped="no template")).detail


def test_what_cannot_be_asked_is_told_before_anything_is_done() -> None:
    """A dry run opens no guard, and holds it to its form and to the source all the same."""
    model: Any = SimpleNamespace(meta=lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    source: Any = SimpleNamespace(text=lambda _: None)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(UsageError, match="'turns:0.1' asks in a chat, and the source") as error:
        refuse_silent(["maths", "turns:0.1"], model, source)
    assert "maths" in str(error.value.expected) and "turns" not in str(error.value.expected)
    refuse_silent(["maths", "choice:q.jsonl"], model, source)
    source.text = lambda _: "{{ messages }}"  # pyright: ignore[reportUnknownLambdaType]
    refuse_silent(["turns"], model, source)
    with pytest.raises(UsageError, match="maths:2"):
        guard_tokens(["maths:2"])


def test_tolerances_are_read_with_their_tasks(home: Path) -> None:
    file = home / "q.jsonl"
    guard = open_guard(["maths:0.05", "tool-calls", f"choice:{file}"], 2)
    assert guard and guard.tolerances == {"maths": 0.05, "tool-calls": 0, f"choice:{file}": 0}
    with_tolerance = open_guard([f"choice:{file}:0.1"])
    assert with_tolerance and with_tolerance.tolerances == {f"choice:{file}": 0.1}
    assert open_guard([]) is None
    for given, problem in (
        ("maths:x", "the guard 'maths:x'"),
        ("maths:2", "the guard 'maths:2'"),
        ("math:0.1", "did you mean maths"),
    ):
        with pytest.raises(UsageError) as caught:
            open_guard([given])
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["maths", "maths:0.05"], "the task 'maths' was named twice"),
        (["json:0.1", "nope:0.1"], "no task named 'nope'"),
        (["nope:much"], "no task named 'nope'"),
        (["maths:much"], "the guard 'maths:much'"),
    ],
)
def test_names_are_checked_before_the_source(
    tmp_path: Path, given: list[str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        optimize(tmp_path / "no-source", tmp_path / "out", bpw=4.0, guard=given)
    assert not (tmp_path / "out").exists()
