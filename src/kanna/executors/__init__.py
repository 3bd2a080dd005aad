"""Executors: where a recipe runs; each file here exports EXECUTOR."""

from __future__ import annotations

from kanna._util import plugins
from kanna.executors.base import Executor

LOCAL = "local"
"""The one that a recipe runs in where none is named."""


def names() -> tuple[str, ...]:
    """Returns the names of all executors, sorted."""
    return plugins.names(__name__, "EXECUTOR")


def get(name: str) -> Executor:
    """Returns the executor of a name.

    Raises:
        UsageError: There is none of that name; the error lists the known ones.
    """
    return plugins.choose(__name__, name, "EXECUTOR")
