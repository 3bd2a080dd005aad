"""Rollouts by what others have already: one file of this folder for each, found by name."""

from __future__ import annotations

from kanna._util import plugins
from kanna.fleet.orchestrators.base import Orchestrator

_EXPORT = "ORCHESTRATOR"


def names() -> list[str]:
    """The orchestrators, as they are typed."""
    return [name.replace("_", "-") for name in plugins.names(__name__, _EXPORT)]


def get(name: str) -> Orchestrator:
    """The orchestrator of a name; UnsupportedError lists the known ones where there is none."""
    return plugins.load(__name__, name.replace("-", "_"), _EXPORT)
