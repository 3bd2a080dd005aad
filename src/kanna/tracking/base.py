"""What a tracking server is told of a run: the protocol that each of them is spoken to by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
"""How a run ended."""


class RunBackend(Protocol):
    """A run at a tracking server; every call may raise what its library does."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """What the run was asked for."""
        ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """What was measured at a step."""
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
