"""What a tracking server is told of a run: the protocol that each of them is spoken to by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
"""How a run ended."""
Point: TypeAlias = tuple[int, Mapping[str, float]]
"""A step, and what was measured at it."""


class RunBackend(Protocol):
    """A run at a tracking server; every call may raise what its library does."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was asked for."""
        ...

    def metrics(self, points: Sequence[Point]) -> None:
        """What was measured, by step; there is a point at least."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """What it was made from, and by what."""
        ...

    def file(self, path: Path, folder: str) -> None:
        """A file, into a folder of the run."""
        ...

    def child(self, name: str) -> RunBackend:
        """A run below this one."""
        ...

    def end(self, status: str) -> None:
        """How it ended."""
        ...
