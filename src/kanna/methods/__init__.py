"""Methods: how the values of a tensor are chosen for an encoding.

Each file is one, under its own name.
"""

from __future__ import annotations

from kanna._util import plugins
from kanna.methods.base import Inputs, Method

__all__ = ["Inputs", "Method", "get", "names"]


def names() -> list[str]:
    """Names of all methods, sorted."""
    return list(plugins.names(__name__, "METHOD"))


def get(name: str) -> Method:
    """The method called `name`; UnsupportedError names the known ones."""
    return plugins.load(__name__, name, "METHOD")
