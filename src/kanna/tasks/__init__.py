"""Tasks: what a model must still be able to do. Each file is one, under its own name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util import arguments, plugins
from kanna._util.nearest import nearest
from kanna.errors import UsageError
from kanna.tasks.base import Task

__all__ = ["ChosenTask", "Task", "choose", "get", "names"]

MOST_EXAMPLES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTask:
    """A task as the user named it, with its questions.

    Attributes:
        name: As it was named, `choice:FILE` with its file.
        task: What that is.
        examples: Its questions.
    """

    name: str
    task: Task[Any]
    examples: tuple[Any, ...]


def names() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(n.replace("_", "-") for n in plugins.names(__name__, "TASK"))


def get(name: str) -> Task[Any]:
    """The task called `name`; UsageError names the known ones, and the one that was meant."""
    if name not in names():
        forms = [_form(known, _loaded(known)) for known in names()]
        raise UsageError(
            f"no task named {name!r}{nearest(name, names())}", expected=", ".join(forms)
        )
    return _loaded(name)


def _loaded(name: str) -> Task[Any]:
    return plugins.load(__name__, name.replace("-", "_"), "TASK")


def _form(name: str, task: Task[Any]) -> str:
    """How a task is named, with what follows its colon."""
    return f"{name}:{task.argument}" if task.argument else name


def choose(given: str | Iterable[str], count: int | None = None) -> list[ChosenTask]:
    """The tasks that were named, with their questions.

    Args:
        given: Names, by comma or one by one, such as `maths,choice:questions.jsonl`.
        count: Questions of each at most; None: each task's own number.

    Raises:
        UsageError: A name is not known or named twice, or a file is missing, empty or malformed.
    """
    if count is not None and not 1 <= count <= MOST_EXAMPLES:
        raise UsageError(f"{count} questions of a task", expected=f"from 1 to {MOST_EXAMPLES:,}")
    chosen: list[tuple[str, Task[Any]]] = []
    for named in arguments.names(given):
        name, _, argument = named.partition(":")
        task = get(name)
        if bool(argument) != bool(task.argument):
            raise _misnamed(named, name, task)
        chosen.append((named, task))
    refuse_repeated([named for named, _ in chosen])
    return [  # every name was checked before the questions of the first are read
        ChosenTask(
            name=named, task=task, examples=tuple(task.examples(named.partition(":")[2], count))
        )
        for named, task in chosen
    ]


def refuse_repeated(given: Iterable[str]) -> None:
    """Raise UsageError where a task is named twice, its file written another way or not.

    Args:
        given: Names of tasks, without tolerances.
    """
    seen: dict[tuple[str, str], str] = {}
    for named in given:
        name, _, argument = named.partition(":")
        file = Path(argument)
        key = name, str(file.resolve()) if argument and file.is_file() else argument
        if key in seen:
            other = "" if seen[key] == named else f", as {seen[key]!r} before"
            raise UsageError(
                f"the task {named!r} was named twice{other}",
                expected=f"each task once; there are {', '.join(names())}",
            )
        seen[key] = named


def _misnamed(named: str, name: str, task: Task[Any]) -> UsageError:
    """What is wrong where a colon is missing, or stands where nothing may follow."""
    form = _form(name, task)
    if task.argument:
        return UsageError(f"the task {named!r} names no {task.argument}", expected=form)
    return UsageError(
        f"the task {named!r} has something after its name",
        expected=form,
        todo="a tolerance, as in maths:0.05, is for `kanna optimize --guard`",
    )
