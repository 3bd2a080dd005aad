"""What a run learns: answers as they are, what a teacher says, which answer is preferred."""

from __future__ import annotations

import importlib

from kanna.errors import UsageError
from kanna.training.objectives.base import Objective

DEFAULT, DISTILL = "sft", "distill"
PAIRS = ("dpo", "orpo")
"""Those that learn which of two answers is preferred."""
NAMES = (DEFAULT, *PAIRS, DISTILL)


def get(name: str) -> Objective:
    """The objective of a name.

    Raises:
        UsageError: There is none.
    """
    if name not in NAMES:
        raise UsageError(f"no objective {name!r}", expected=", ".join(NAMES))
    return importlib.import_module(f"{__name__}.{name}").OBJECTIVE
