"""This machine, one step after another: nothing is set."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.executors.base import Executor


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """Nothing can be set."""


EXECUTOR = Executor(summary="This machine, one step after another", options=LocalOptions)
