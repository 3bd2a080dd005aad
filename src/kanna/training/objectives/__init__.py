"""What a run learns: answers as they are, or which of two answers is preferred."""

from __future__ import annotations

from kanna._util import plugins
from kanna.errors import UsageError
from kanna.training.objectives.base import Objective

DEFAULT = "sft"


def names() -> tuple[str, ...]:
    """Names of the objectives there are."""
    return plugins.names(__name__, "OBJECTIVE")


def get(name: str) -> Objective:
    """The objective of a name.

    Raises:
        UsageError: There is none.
    """
    if name not in names():
        raise UsageError(f"no objective {name!r}", expected=", ".join(names()))
    return plugins.load(__name__, name, "OBJECTIVE")
