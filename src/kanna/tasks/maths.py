"""`maths`: arithmetic in words, one whole number as the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from kanna.tasks.base import Task, TaskAnswer, TaskPrompt

_SEED = 20260101
_COUNT = 50
_PEOPLE = ("Ada", "Bruno", "Chidi", "Dana", "Emil", "Farah", "Goro", "Hanna", "Ines", "Jonas")
_THINGS = ("apples", "books", "candles", "eggs", "marbles", "nails", "pencils", "stamps", "tiles")
_SHOTS = (
    "Question: Kira has 12 shells and gives away 5 of them. How many shells has she left?\n"
    "Answer: 7\n\n"
    "Question: A crate holds 6 bottles. How many bottles are in 4 such crates?\n"
    "Answer: 24\n\n"
)
_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_MARKED = re.compile(rf"answer\s*(?:is|:)\W*?({_NUMBER})", re.IGNORECASE)
_ANY = re.compile(_NUMBER)


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem and its answer."""

    text: str
    answer: int


def _add(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b, c = rng.randint(11, 89), rng.randint(6, 60), rng.randint(2, 30)
    return WordProblem(
        f"{who} has {a} {what}, buys {b} more and finds another {c}. How many {what} are that "
        "altogether?",
        a + b + c,
    )


def _take(rng: random.Random, who: str, what: str) -> WordProblem:
    a = rng.randint(50, 120)
    b, c = rng.randint(5, 20), rng.randint(5, 25)
    return WordProblem(
        f"There are {a} {what} on a table. {who} takes {b} of them in the morning and {c} in the "
        "evening. How many are left?",
        a - b - c,
    )


def _boxes(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b = rng.randint(3, 9), rng.randint(4, 12)
    c = rng.randint(1, 3)
    return WordProblem(
        f"{who} packs {a} boxes with {b} {what} each, and {c} of all these {what} break. How many "
        "are whole?",
        a * b - c,
    )


def _share(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b = rng.randint(3, 9), rng.randint(4, 15)
    return WordProblem(
        f"{who} shares {a * b} {what} equally among {a} children. How many does each child get?", b
    )


def _change(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b = rng.randint(2, 8), rng.randint(2, 9)
    return WordProblem(
        f"{who} buys {a} {what} at {b} coins each and pays with 100 coins. How many coins does "
        f"{who} get back?",
        100 - a * b,
    )


def _journey(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b = rng.randint(4, 18) * 5, rng.randint(2, 6)
    return WordProblem(
        f"{who} drives at {a} kilometres an hour for {b} hours with a load of {what}. How many "
        "kilometres is that?",
        a * b,
    )


def _half(rng: random.Random, who: str, what: str) -> WordProblem:
    a, b = rng.randint(6, 40), rng.randint(3, 20)
    return WordProblem(
        f"{who} had {2 * a} {what}, sold half of them and then got {b} new ones. How many {what} "
        f"has {who} now?",
        a + b,
    )


_KINDS: tuple[Callable[[random.Random, str, str], WordProblem], ...] = (
    _add,
    _take,
    _boxes,
    _share,
    _change,
    _journey,
    _half,
)


def _examples(argument: str, count: int | None) -> list[WordProblem]:
    """The same problems each time: the first ones of a set without end."""
    rng = random.Random(_SEED)
    return [
        _KINDS[i % len(_KINDS)](rng, rng.choice(_PEOPLE), rng.choice(_THINGS))
        for i in range(count or _COUNT)
    ]


def _prompt(problem: WordProblem, chat: bool) -> TaskPrompt:
    expected = str(problem.answer)
    if chat:
        text = f"{problem.text} Think briefly, then end with a line `Answer:` and the number alone."
        return TaskPrompt(turns=(text,), expected=expected)
    text = f"{_SHOTS}Question: {problem.text}\nAnswer:"
    return TaskPrompt(turns=(text,), stop=("\n",), expected=expected)


def read_number(text: str) -> float | None:
    """The number after the last `Answer:`, else the last number of all; None without any."""
    numbers: list[str] = _MARKED.findall(text) or _ANY.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _score(problem: WordProblem, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    number = read_number(answer.last)
    if number is None:
        return "no number"
    return "" if number == problem.answer else f"{number:g}, not {problem.answer}"


TASK = Task(
    summary="Arithmetic in words: is the number right",
    count=_COUNT,
    max_tokens=192,
    examples=_examples,
    prompt=_prompt,
    score=_score,
)
