"""Tasks: their questions and scores, paired intervals, and a real model beside a damaged one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from kanna import convert, tasks
from kanna._util.progress import Silent
from kanna.closeness import grade_name
from kanna.errors import GateError, UsageError
from kanna.evaluation import EvaluateResult, evaluate
from kanna.runtimes.base import Engine, GenerationStats
from kanna.tasks.base import TaskAnswer
from kanna.tasks.maths import read_number
from kanna.tasks.pairing import TaskScore, certain_loss, from_json, newcombe
from kanna.tasks.run import OriginalAnswers
from kanna.tasks.tool_calls import calls


def answer(*texts: str, reason: str = "eog", **more: Any) -> TaskAnswer:
    return TaskAnswer(texts=texts, reasons=(reason,) * len(texts), **more)


def test_intervals_are_newcombes() -> None:
    """The example of the paper's table II, and what it says of pairs without a flip."""
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=1e-4)
    low, high = newcombe(50, 0, 0, 0)
    assert low == -high and 0.05 < high < 0.1


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    shares = np.array([0.55, 0.2, 0.08, 0.17])
    drawn = rng.multinomial(40, shares, size=2000)
    inside = [low <= shares[1] - shares[2] <= high for low, high in (newcombe(*n) for n in drawn)]
    assert 0.93 < np.mean(inside) < 0.98


def test_one_flip_of_fifty_decides_no_grade() -> None:
    def score(lost: int) -> TaskScore:
        return TaskScore(
            name="maths",
            summary="",
            examples=50,
            reference_solved=50,
            solved=50 - lost,
            lost=lost,
            loss=lost / 50,
            loss_ci=newcombe(50 - lost, lost, 0, 0),
        )

    assert certain_loss([]) is None
    assert certain_loss([score(1)]) == 0
    sure = certain_loss([score(0), score(20)])
    assert sure is not None and 0.2 < sure < 0.4
    close = {"kl_mean": 0.001, "top1": 0.99}
    assert grade_name(close | {"task_loss": 0}) == "near-identical"
    assert grade_name(close | {"task_loss": sure}) == "poor"


@pytest.mark.parametrize("name", ["maths", "json", "tool-calls", "turns"])
def test_questions_are_the_same_each_time_and_more_of_them_begin_alike(name: str) -> None:
    [few], [more] = tasks.choose(name, 7), tasks.choose([name], 12)
    assert few.examples == more.examples[:7] and len(set(map(repr, more.examples))) > 8
    prompt = few.task.prompt(few.examples[0], True)
    assert prompt.turns and prompt.expected


def test_numbers_are_read_where_they_are_announced() -> None:
    assert read_number("3 + 4 = 7, and 2 boxes.\n**Answer:** 1,042 apples in 3 boxes") == 1042
    assert read_number("so 3 and 4 make 7.") == 7
    assert read_number("none") is None
    [maths] = tasks.choose("maths", 1)
    problem = maths.examples[0]
    assert maths.task.score(problem, answer(f"Answer: {problem.answer}"), None) == ""
    assert maths.task.score(problem, answer(f"Answer: {problem.answer + 1}"), None)


def test_calls_are_valid_and_those_of_the_original() -> None:
    [chosen] = tasks.choose("tool-calls", 6)
    request = next(r for r in chosen.examples if "timer" in r.text or "emind" in r.text)

    def call(name: str = "set_timer", **arguments: Any) -> TaskAnswer:
        made = json.dumps({"name": name, "arguments": arguments})
        return answer(f"<tool_call>\n{made}\n</tool_call>")

    score = chosen.task.score
    good, other = call(minutes=5, label="tea"), call(minutes=5, label="Tea")
    assert score(request, good, None) == "" == score(request, good, good)
    assert "another call" in score(request, other, good)
    assert score(request, other, answer("I cannot")) == ""
    for bad, why in (
        (call(minutes="5", label="tea"), "is no integer"),
        (call(minutes=True, label="tea"), "is no integer"),
        (call(minutes=5000, label="tea"), "not from 1 to 600"),
        (call(minutes=5), "label is missing"),
        (call(minutes=5, label="tea", x=1), "not in the schema"),
        (call("launch", minutes=5), "not offered"),
        (answer('{"name": "set_timer", "arguments": NaN}'), "no call"),
        (answer("{" * 5000), "no call"),
    ):
        assert why in score(request, bad, good)
    listed = '[{"name": "set_timer", "parameters": {"minutes": 5, "label": "tea"}}]'
    assert calls(listed, request.tools) == [("set_timer", {"minutes": 5, "label": "tea"})]


def test_json_alone_that_matches() -> None:
    [chosen] = tasks.choose("json", 1)
    person = '{"name": "Alma", "age": 30, "city": "Oslo"}'
    score, example = chosen.task.score, chosen.examples[0]
    assert score(example, answer(f"```json\n{person}\n```"), None) == ""
    assert score(example, answer(f"Here it is: {person}"), None) == "not JSON alone"
    assert "age" in score(example, answer(person.replace("30", "null")), None)


def test_conversations_end_and_remember() -> None:
    [chosen] = tasks.choose("turns", 1)
    score, talk = chosen.task.score, chosen.examples[0]
    good = answer("Hi", "The sun.", f"It is {talk.fact}!", markers=("<|im_end|>",))
    assert score(talk, good, None) == ""
    assert "forgotten" in score(talk, answer("Hi", "The sun.", "I do not know."), None)
    assert "does not end" in score(talk, answer("a", "b", talk.fact, reason="length"), None)
    leaking = answer("a", "b<|im_end|>", talk.fact, markers=("<|im_end|>",))
    assert "chat template" in score(talk, leaking, None)


GOOD = {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "no JSON"),
        ("[]", "no object"),
        (json.dumps(GOOD | {"question": " "}), "`question` is no text"),
        (json.dumps(GOOD | {"choices": ["4"]}), "`choices` is no list"),
        (json.dumps(GOOD | {"choices": ["4", 5]}), "no text"),
        (json.dumps(GOOD | {"choices": ["4", "4 "]}), "twice"),
        (json.dumps(GOOD | {"answer": 2}), "`answer` is 2"),
        (json.dumps(GOOD | {"answer": True}), "`answer` is True"),
        (json.dumps(GOOD | {"answer": "C"}), "`answer` is 'C'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 3") as caught:
        tasks.choose(f"choice:{path}")
    assert problem in str(caught.value)


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    for given, problem in (
        ("math", "did you mean maths"),
        ("choice", "choice:FILE.jsonl"),
        ("maths:3", "the task 'maths:3'"),
        ("maths,maths", "named twice"),
        ("lm-eval:a,json,lm-eval:a", "'lm-eval:a' was named twice"),
        (f"choice:{tmp_path}/empty.jsonl,choice:{tmp_path}/./empty.jsonl", "named twice, as"),
        (f"choice:{tmp_path}/none.jsonl,nope", "no task named 'nope'"),
        (f"choice:{tmp_path}/none.jsonl", "does not exist"),
        (f"choice:{tmp_path}/empty.jsonl", "holds no question"),
    ):
        with pytest.raises(UsageError) as caught:
            tasks.choose(given)
        assert problem in str(caught.value)
        if "named" in problem:
            assert "json" in caught.value.expected and "tool-calls" in caught.value.expected


class ScriptedEngine:
    """A model that answers from a list; its tokens are bytes."""

    path = Path("scripted.gguf")
    context, trained_context, vocab_size = 100_000, 0, 256
    bos = eos = None

    def __init__(self, texts: Sequence[str], template: str | None, *, broken: bool = False) -> None:
        self.texts, self.chat_template, self.broken = iter(texts), template, broken
        self.last = GenerationStats(reason="eog")
        self.read: list[str] = []

    def tokenize(self, text: str, *, add_bos: bool = False, special: bool = False) -> list[int]:
        return list(text.encode())

    def logits(self, ids: Sequence[int], *, first: int = 0, copy: bool = True) -> np.ndarray:
        return np.full((len(ids) - first, 256), np.nan if self.broken else 0, np.float32)

    def generate(self, ids: Sequence[int], **options: Any) -> Iterator[str]:
        self.read.append(bytes(ids).decode())
        yield next(self.texts)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if tools %}<|tools|>{{ tools | tojson }}{% endif %}"
)


def engine(texts: Sequence[str], template: str | None = TEMPLATE, **more: Any) -> Engine:
    return cast(Engine, ScriptedEngine(texts, template, **more))


def test_what_flipped_is_shown_with_both_answers() -> None:
    chosen = tasks.choose("maths", 2)
    right = [f"Answer: {problem.answer}" for problem in chosen[0].examples]
    original = OriginalAnswers(chosen, engine(right), Silent())
    [score] = original.compare(engine([right[0], "Answer: -1"]), Silent())
    assert (score.reference_solved, score.solved, score.lost, score.won) == (2, 1, 1, 0)
    [flip] = score.flips
    assert flip.became == "wrong" and flip.reference == [right[1]] and flip.answer == ["Answer: -1"]
    assert flip.prompt[0].startswith(chosen[0].examples[1].text)


def test_turns_see_the_answers_before_and_tools_go_where_the_template_has_them() -> None:
    chosen = tasks.choose("turns,tool-calls", 1)
    scripted = engine(["one", "two", "three", "four"])
    OriginalAnswers(chosen, scripted, Silent())
    *_, last, call = cast(Any, scripted).read
    assert "<|assistant|>one" in last and "<|assistant|>two" in last
    assert "<|tools|>[" in call and "You can call" not in call
    without = engine(["one"], "{% for m in messages %}{{ m.content }}{% endfor %}")
    OriginalAnswers(chosen[1:], without, Silent())
    assert cast(Any, without).read[0].startswith("You can call these functions")


def test_a_lost_chat_template_is_a_loss_and_an_absent_one_a_reason() -> None:
    chosen = tasks.choose("tool-calls", 1)
    silent = OriginalAnswers(chosen, engine([], None), Silent())
    assert (
        silent.compare(engine([]), Silent())[0].skipped == "the original carries no chat template"
    )
    [maths] = tasks.choose("maths", 1)
    right = f"Answer: {maths.examples[0].answer}"
    [score] = OriginalAnswers([maths], engine([right]), Silent()).compare(
        engine([], None), Silent()
    )
    assert score.lost == 1 and "no chat template" in score.flips[0].why


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(GateError, match="not numbers"):
        OriginalAnswers(tasks.choose("maths", 1), engine([], broken=True), Silent())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    folder = tmp_path_factory.mktemp("tasks")
    questions = folder / "stories.jsonl"
    lines = [
        {
            "question": f"Once upon a time, there was a little {who}. One day, {who} went to",
            "choices": ["the park.", "qed xyzzy", "vii of iv."],
            "answer": "A",
        }
        for who in ("girl", "boy", "dog", "cat")
    ]
    questions.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    convert("builtin:stories15m", folder / "q8.gguf", preset="Q8_0")
    return evaluate(
        folder / "q8.gguf",
        reference="builtin:stories15m",
        windows=4,
        tasks=f"maths,turns,choice:{questions}",
        examples=4,
    )


def test_a_real_model_chooses_as_its_original(evaluated: EvaluateResult) -> None:
    maths, turns, choice = evaluated.tasks
    assert turns.skipped == "the original carries no chat template"
    assert maths.examples == choice.examples == 4
    assert choice.reference_solved == choice.solved == 4 and choice.loss == 0
    assert evaluated.task_loss == 0
    assert any("turns was not asked" in note for note in evaluated.notes)


def test_scores_survive_json(evaluated: EvaluateResult) -> None:
    data = json.loads(json.dumps(evaluated.to_dict()))
    again = from_json(data["tasks"])
    assert [s.words() for s in again] == [s.words() for s in evaluated.tasks]
    assert data["grade"] == grade_name(data)
