"""Targets, where a packaged artefact runs: each file here exports TARGET."""

from __future__ import annotations

from kanna._util import plugins
from kanna.packaging.targets.base import Target


def names() -> tuple[str, ...]:
    """Returns the names of all targets, sorted."""
    return plugins.names(__name__, "TARGET")


def get(name: str) -> Target:
    """Returns the target of a name.

    Raises:
        UnsupportedError: There is none of that name; the error lists the known ones.
    """
    return plugins.load(__name__, name, "TARGET")
