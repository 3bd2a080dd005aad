"""`choice:FILE.jsonl`: questions of a file, each answered by its likeliest choice."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.nearest import unreadable
from kanna.errors import UsageError
from kanna.tasks.base import Task, TaskAnswer, TaskPrompt

_FORM = '{"question": "…", "choices": ["…", "…"], "answer": 0}'
_MOST_CHOICES = 26


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices, and which of them is right."""

    text: str
    choices: tuple[str, ...]
    answer: int


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}", expected="JSON lines") from error
    except OSError as error:
        expected = f"a file of JSON lines, each {_FORM}"
        raise unreadable(path, error, UsageError, expected=expected) from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _question(path: Path, number: int, line: str) -> Question:
    def refuse(problem: str) -> UsageError:
        return UsageError(f"{path}, line {number}: {problem}", expected=_FORM)

    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise refuse(f"no JSON ({error})") from None
    if not isinstance(value, dict):
        raise refuse(f"{line.strip()[:60]!r} is no object")
    text, choices, answer = (value.get(k) for k in ("question", "choices", "answer"))
    if not isinstance(text, str) or not text.strip():
        raise refuse("`question` is no text")
    if not isinstance(choices, list) or not 2 <= len(choices) <= _MOST_CHOICES:
        raise refuse(f"`choices` is no list of 2 to {_MOST_CHOICES} texts")
    if not all(isinstance(c, str) and c.strip() for c in choices):
        raise refuse("`choices` has one that is no text")
    stripped = [c.strip() for c in choices]
    if len(set(stripped)) < len(stripped):
        raise refuse("`choices` has one twice")
    right = _right(answer, stripped)
    if right is None:
        raise refuse(
            f"`answer` is {answer!r:.40}, neither an index from 0 to {len(choices) - 1}, a letter "
            "from A on, nor one of the choices"
        )
    return Question(text.strip(), tuple(stripped), right)


def _right(answer: Any, choices: list[str]) -> int | None:
    """Index of the right choice: its text goes before its letter."""
    if isinstance(answer, bool):
        return None
    if isinstance(answer, int):
        return answer if 0 <= answer < len(choices) else None
    if not isinstance(answer, str):
        return None
    if answer.strip() in choices:
        return choices.index(answer.strip())
    letters = string.ascii_uppercase[: len(choices)]
    return letters.index(answer.strip()) if answer.strip() in {*letters} else None


def _examples(argument: str, count: int | None) -> list[Question]:
    """All questions of a file, or its first ones; every line is read before any is asked."""
    path = Path(argument)
    questions = [_question(path, number, line) for number, line in _lines(path)]
    if not questions:
        raise UsageError(f"{path} holds no question", expected=f"JSON lines, each {_FORM}")
    return questions[:count]


def _prompt(question: Question, chat: bool) -> TaskPrompt:
    text = question.text if chat else f"Question: {question.text}\nAnswer:"
    return TaskPrompt(
        turns=(text,), choices=question.choices, expected=question.choices[question.answer]
    )


def _score(question: Question, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    return "" if answer.picked == question.answer else "another choice is likelier"


TASK = Task(
    summary="Questions of a file: is the right choice the likeliest",
    count=0,
    examples=_examples,
    prompt=_prompt,
    score=_score,
    argument="FILE.jsonl",
)
