"""Tasks of lm-evaluation-harness: its own scores, from models that kanna runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import engine_artefacts

from kanna import runtimes, tasks
from kanna._util.progress import Silent
from kanna.errors import NotFoundError, UsageError
from kanna.tasks.answering import answers
from kanna.tasks.base import TaskAnswer
from kanna.tasks.pairing import judge, pair

pytest.importorskip("lm_eval")

_DOCS = [
    {"q": f"The number after {n} is", "c": [f"{n + 1}", f"{n + 2}", "a tree"], "a": n % 3}
    for n in range(12)
]
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
_TEXT = {
    "output_type": "generate_until",
    "doc_to_target": "{{c[0]}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match"}],
    "filter_list": [
        {"name": "first", "filter": [{"function": "regex", "regex_pattern": "(\\d+)"}]},
    ],
}


def _written(folder: Path, **more: Any) -> str:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in _DOCS))
    task = {
        "task": "numbers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    path = folder / "numbers.yaml"
    path.write_text(json.dumps(task | more))
    return f"lm-eval:{path}"


def test_choices_are_scored_as_the_harness_scores_them(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chosen = tasks.choose(_written(tmp_path, **_CHOICE), 9)[0]
    assert len(chosen.examples) == 9
    model = engine_artefacts.shared("gguf", tmp_path_factory)
    with runtimes.of(model).open(model, context=256) as engine:
        given = answers(engine, chosen, chat=False, progress=Silent())
    likeliest = [int(answer.picked or 0) for answer in given]
    lengths = [[len(c) for c in doc["c"]] for doc in _DOCS]
    for example, answer, doc, sizes in zip(chosen.examples, given, _DOCS, lengths, strict=False):
        total = [score * size for score, size in zip(answer.scores, sizes, strict=True)]
        right = total.index(max(total)) == doc["a"]
        assert (chosen.task.score(example, answer, None) == "") == right
        assert example.metric == "acc"
    assert set(likeliest) <= {0, 1, 2}
    judged = judge(chosen, given)
    score = pair(chosen, chat=False, reference=judged, own=judged)
    assert score.lost == score.won == 0 and score.examples == 9


def test_an_answer_goes_through_the_filters_of_the_task(tmp_path: Path) -> None:
    chosen = tasks.choose(_written(tmp_path, **_TEXT))[0]
    assert len(chosen.examples) == len(_DOCS)
    first = chosen.examples[0]
    prompt = chosen.task.prompt(first, False)
    assert (prompt.turns, prompt.stop, prompt.max_tokens) == ((_DOCS[0]["q"],), (".",), 6)
    assert prompt.expected == "1"
    for text, right in ((" 1", True), ("It is 1, surely", True), (" 2", False), ("", False)):
        why = chosen.task.score(first, TaskAnswer(texts=(text,)), None)
        assert (why == "") == right, text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (_TEXT | {"output_type": "loglikelihood_rolling"}, "scored by likelihoods alone"),
        (_CHOICE | {"doc_to_text": "{{nowhere.nothing}}"}, "'nowhere' is undefined"),
        (_CHOICE | {"dataset_kwargs": {"data_files": "/nowhere"}}, "cannot be loaded"),
        (_TEXT | {"metric_list": [{"metric": "chrf"}]}, "is scored by chrf"),
    ],
    ids=["likelihoods", "template", "data", "metric"],
)
def test_what_cannot_be_paired_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        tasks.choose(_written(tmp_path, **more))


@pytest.mark.slow  # the harness reads thousands of definitions
def test_names_are_those_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _written(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean lm-eval:numbers\.yaml\?"):
        tasks.choose("lm-eval:numbers")
    with pytest.raises(UsageError, match=r"no task 'arc_esy' \(did you mean arc_easy\?\)"):
        tasks.choose("lm-eval:arc_esy")
    with pytest.raises(UsageError, match="group of tasks"):
        tasks.choose("lm-eval:mmlu")


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        tasks.choose("lm-eval:nowhere.yaml")
    with pytest.raises(UsageError, match="TASK or FILE"):
        tasks.choose("lm-eval")


@pytest.mark.slow  # transformers runs the harness's own models
def test_the_harness_itself_gives_the_same(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    name = _written(tmp_path, **_CHOICE)
    model = engine_artefacts.shared("gguf", tmp_path_factory)
    source = model.parent / "source"
    theirs = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(source), device="cpu", dtype="float32"),
        tasks=[name.partition(":")[2]],
        log_samples=True,
        bootstrap_iters=0,
    )
    assert theirs is not None
    chosen = tasks.choose(name)[0]
    with runtimes.of(model).open(model, context=256) as engine:
        given = answers(engine, chosen, chat=False, progress=Silent())
    ours = [
        float(chosen.task.score(e, a, None) == "")
        for e, a in zip(chosen.examples, given, strict=True)
    ]
    samples = sorted(theirs["samples"]["numbers"], key=lambda sample: sample["doc_id"])
    assert ours == [sample["acc"] for sample in samples]
