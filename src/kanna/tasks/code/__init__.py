"""`code`: short Python functions, run in a sandbox and held to what their calls must give."""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

from kanna.tasks.base import Task, TaskAnswer, TaskPrompt
from kanna.tasks.code import sandbox
from kanna.tasks.code.problems import PROBLEMS, FunctionProblem

_LONGEST = 20_000
"""Characters of a program: some answers never end, and compiling them takes memory."""
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n```", "\nassert ", "\n@")
_SHOT = (
    'def double(x):\n    """Return twice the number x."""\n    return 2 * x\n\n\n'
    'def first_word(text):\n    """Return the first word of the text."""\n'
    "    return text.split()[0]\n\n\n"
)


def _examples(argument: str, count: int | None) -> list[FunctionProblem]:
    sandbox.require()  # before any model runs
    return list(PROBLEMS[:count])


def _head(problem: FunctionProblem) -> str:
    return f'{problem.signature}:\n    """{problem.task}"""\n'


def _prompt(problem: FunctionProblem, chat: bool) -> TaskPrompt:
    expected = "; ".join(f"{call} is {value!r}" for call, value in problem.checks)
    if chat:
        text = (
            f"Write a Python function.\n\n{problem.signature}\n\n{problem.task}\n\nAnswer with the "
            "function alone, in one block of code, without examples."
        )
        return TaskPrompt(turns=(text,), expected=expected)
    return TaskPrompt(turns=(f"{_SHOT}{_head(problem)}",), stop=_STOPS, expected=expected)


def program(problem: FunctionProblem, text: str) -> str:
    """The program that an answer is: its blocks of code, all of it, or what goes on after the head.

    Args:
        problem: What was asked.
        text: The answer.
    """
    defines = re.compile(rf"^\s*def\s+{problem.name}\s*\(", re.MULTILINE)
    if not defines.search(text):
        return f"{_head(problem)}{text}"
    blocks = [block for block in _FENCED.findall(text) if defines.search(block)]
    return blocks[0] if blocks else text


def same(expected: Any, value: Any) -> bool:
    """Whether JSON of a value is that of the right one: 2.0 is 2, True is not 1.

    Args:
        expected: The right one.
        value: What a call gave.
    """
    if isinstance(expected, bool) or expected is None:
        return value is expected
    if isinstance(expected, int | float):
        if isinstance(value, float):
            return math.isclose(expected, value, rel_tol=1e-9, abs_tol=1e-12)
        return isinstance(value, int) and not isinstance(value, bool) and value == expected
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(map(same, expected, value))
        )
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same(one, value[key]) for key, one in expected.items())
        )
    return value == expected


@lru_cache(4096)
def _problem_of(problem: FunctionProblem, text: str) -> str:
    """Why a program is not right; the original's answers are scored beside every file's."""
    if len(text) > _LONGEST:
        return f"a program of {len(text):,} characters"
    calls = [call for call, _ in problem.checks]
    results = sandbox.run(text, calls)  # what a model wrote; never run otherwise
    if results.problem:
        return results.problem
    for (call, expected), value, error in zip(
        problem.checks, results.values, results.errors, strict=True
    ):
        if error:
            return f"{call}: {error}"
        if not same(expected, value):
            return f"{call} is {json.dumps(value)[:60]}, not {json.dumps(expected)}"
    return ""


def _score(problem: FunctionProblem, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    return _problem_of(problem, program(problem, answer.last))


TASK = Task(
    summary="Short Python functions: do they run, and give what they must",
    count=len(PROBLEMS),
    max_tokens=320,
    examples=_examples,
    prompt=_prompt,
    score=_score,
)
