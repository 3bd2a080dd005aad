"""The record of a stage: its name, its function, and what it does in a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from kanna.optimization.job import Job

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of an optimization.

    Attributes:
        name: As recipes name it.
        function: Takes the job and results of earlier stages; returns its own.
        summary: One line.
        lap: The name of its time in the result.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    lap: str


STAGES: dict[str, Stage] = {}
"""Every stage by name, in order."""


def stage(
    name: str, summary: str, *, seconds: str | None = None
) -> Callable[[Callable[Concatenate[Job, P], R]], Callable[Concatenate[Job, P], R]]:
    """Make a stage of a function: listed in STAGES, timed, and not begun in a cancelled run.

    Args:
        name: As recipes name it.
        summary: One line.
        seconds: The name of its time in the result, if it is another.
    """
    lap = seconds or name

    def register(
        function: Callable[Concatenate[Job, P], R],
    ) -> Callable[Concatenate[Job, P], R]:
        @wraps(function)
        def timed(job: Job, *args: P.args, **kwargs: P.kwargs) -> R:
            job.context.check_cancelled()
            result = function(job, *args, **kwargs)
            job.context.clock.lap(lap)
            job.context.tell_time(name, lap)
            return result

        STAGES[name] = Stage(name=name, function=timed, summary=summary, lap=lap)
        return timed

    return register
