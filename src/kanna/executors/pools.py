"""Steps that run beside each other: what a pool is given, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kanna.errors import KannaError
from kanna.executors.step_worker import Perform


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """Something that a step reads.

    Attributes:
        path: Where it lies here.
        files: Every file of it, by its name from the folder that `path` is in.
    """

    path: Path
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTask:
    """A step that is about to run.

    Attributes:
        id: Name of its folder.
        step: Its name in the recipe.
        key: Of everything that decides what it makes.
        folder: Where its files belong here.
        work: The step, which another process can load.
        reads: What it reads.
    """

    id: str
    step: str
    key: str
    folder: Path
    work: Perform
    reads: tuple[TaskInput, ...]


class StepPool(Protocol):
    """Where steps run, several at a time."""

    @property
    def slots(self) -> int:
        """How many may have been started and not ended."""
        ...

    def start(self, task: StepTask) -> None:
        """Begin a step."""
        ...

    def wait(self) -> Iterable[tuple[str, KannaError | None]]:
        """Wait until some have ended: their ids, and what kept them from being run at all.

        What a step that was run made lies in its folder then.
        """
        ...

    def close(self) -> None:
        """End what runs still, and leave the cluster."""
        ...
