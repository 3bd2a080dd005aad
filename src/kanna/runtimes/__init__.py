"""Runtimes that load what kanna writes. Each file exports RUNTIME, found by its name."""

from __future__ import annotations

from pathlib import Path

from kanna._util import plugins
from kanna.errors import FormatError
from kanna.runtimes.base import Availability, Engine, Runtime

__all__ = ["Availability", "Engine", "Runtime", "get", "names", "of"]


def names() -> tuple[str, ...]:
    """Names of every runtime kanna knows, here or not."""
    return plugins.names(__name__, "RUNTIME")


def get(name: str) -> Runtime:
    """The runtime of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "RUNTIME")


def of(path: str | Path) -> Runtime:
    """The runtime that loads the artefact at `path`.

    Raises FormatError for a folder that none does.
    """
    path = Path(path)
    for name in names():
        runtime = get(name)
        if runtime.opens(path):
            return runtime
    raise FormatError(
        f"{path} is no artefact that a runtime loads",
        expected="a .gguf file or an artefact's folder",
    )
