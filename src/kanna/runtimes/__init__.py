"""Runtimes that load what kanna writes. Each file exports RUNTIME, found by its name."""

from __future__ import annotations

from kanna import plugins
from kanna.runtimes.base import Availability, Engine, Runtime

__all__ = ["Availability", "Engine", "Runtime", "get", "names"]


def names() -> tuple[str, ...]:
    """Names of every runtime kanna knows, here or not."""
    return plugins.names(__name__)


def get(name: str) -> Runtime:
    """The runtime of that name; raises UnsupportedError naming the known ones."""
    return plugins.load(__name__, name, "RUNTIME")
