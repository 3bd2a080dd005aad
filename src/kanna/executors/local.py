"""This machine: steps beside each other as processors and memory allow."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.errors import UsageError
from kanna.executors.base import Executor
from kanna.executors.settings import option
from kanna.hardware.cpu import default_threads

CORES_OF_STEP = 2
"""Cores for each step beside others: a step alone keeps so few busy for most of its time."""
MOST_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """How much of this machine steps may take together."""

    parallel: int = option(
        "steps that run at a time at most; by default one for every two cores, and no more than 8",
        0,
    )
    threads: int = option("threads that they share; by default one per core", 0)
    memory_gb: float = option(
        "gigabytes of memory that they may take together, as predicted; by default what is free", 0
    )

    def __post_init__(self) -> None:
        for name in ("parallel", "threads", "memory_gb"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"{name} is {getattr(self, name)}", expected="0 for the default, or more"
                )

    @property
    def slots(self) -> int:
        """How many steps may run at a time."""
        cores = self.threads or default_threads()
        return self.parallel or max(1, min(MOST_STEPS, cores // CORES_OF_STEP))


EXECUTOR = Executor(
    summary="This machine, as many steps at a time as it has processors and memory for",
    options=LocalOptions,
)
