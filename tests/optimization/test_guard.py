"""`kanna optimize --guard`: a file that surely loses a task is not one to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers import needs

from kanna import tasks
from kanna._util.progress import Silent
from kanna.errors import UsageError
from kanna.evaluation import reference_gguf
from kanna.optimization import measure
from kanna.optimization.guard import open_guard
from kanna.runtimes.llamacpp import RUNTIME
from kanna.tasks.answering import answers
from kanna.tasks.base import TaskAnswer
from kanna.tasks.pairing import TaskScore

needs.llama_cpp()
pytest.importorskip("torch")

from helpers import optimizing, tiny_models  # noqa: E402 - needs torch

QUESTIONS = 30


def questions(path: Path, model: Path) -> Path:
    """Questions whose right answers are those of the model itself."""
    words = sorted({w.strip(".,") for w in tiny_models.TEXT.split() if len(w) > 3})
    lines = [
        {
            "question": f"{words[i % len(words)]} {words[(7 * i + 3) % len(words)]} {i}",
            "choices": [words[(i + k) % len(words)] for k in range(len(words))][:24],
            "answer": 0,
        }
        for i in range(QUESTIONS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    [chosen] = tasks.choose(f"choice:{path}")
    with RUNTIME.open(reference_gguf(model), context=512, threads=1) as engine:
        given = answers(engine, chosen, chat=bool(engine.chat_template), progress=Silent())
    path.write_text("\n".join(map(json.dumps, map(hardest, lines, given))), encoding="utf-8")
    return path


def hardest(line: dict[str, Any], given: TaskAnswer) -> dict[str, Any]:
    """The two choices that the model tells apart by least."""
    order = sorted(range(len(given.scores)), key=lambda i: given.scores[i])
    worse, better = min(
        pairwise(order), key=lambda pair: given.scores[pair[1]] - given.scores[pair[0]]
    )
    return line | {"choices": [line["choices"][i] for i in (better, worse)], "answer": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with optimizing.quick() as patch:
        patch.setattr(measure, "CANDIDATES", ("q2_k", "q4_0", "q4_k", "q8_0", "f16"))
        patch.setattr(tiny_models, "SMALL", tiny_models.SMALL | {"num_hidden_layers": 2})
        home = optimizing.fill(tmp_path_factory.mktemp("guard"))
        questions(home / "q.jsonl", home / "tiny")
        yield home


def test_a_file_that_lost_the_task_is_kept_and_marked(home: Path) -> None:
    words = ["--effort", "fast", "--guard", f"choice:{home / 'q.jsonl'}:0.02"]
    lost = optimizing.invoke(home, *words, "--like", "Q2_K", out="out")
    assert lost.exit_code == 1, lost.stderr + lost.output
    result = json.loads(lost.stdout)
    [score] = result["tasks"]
    assert result["gate"] == "failed" and score["loss_ci"][0] > 0.02, score
    assert Path(result["artefact"]).is_file() and len(score["flips"]) == score["lost"]
    report = json.loads(Path(result["report"]).with_suffix(".json").read_text("utf-8"))
    assert all(row["gate"] == "failed" for row in report["rows"] if row["tasks"])
    assert "--guard" in report["command"]
    page = Path(result["report"]).read_text("utf-8")
    assert "<h2>Behaviour</h2>" in page and "now wrong" in page


def test_only_a_sure_loss_fails() -> None:
    guard = open_guard(["maths:0.05"], 4)
    assert guard
    score = TaskScore(name="maths", summary="", examples=50, reference_solved=40, solved=38)
    for interval, ok in (((-0.02, 0.1), True), ((0.05, 0.2), True), ((0.06, 0.2), False)):
        check = guard.check(replace(score, loss=0.04, loss_ci=interval))
        assert check.ok is ok and "5 points may be lost" in check.detail
    assert guard.check(replace(score, reference_solved=0, loss=0, loss_ci=(0, 0))).ok is None
    assert "no template" in guard.check(replace(score, skipped="no template")).detail


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
