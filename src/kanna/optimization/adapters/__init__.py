"""What an optimization must know of each format: one file per format, found by its name.

A third party's adapter is an entry point of the group `kanna.optimization.adapters`.
"""

from __future__ import annotations

from kanna._util import plugins
from kanna.optimization.adapters.base import Adapter

__all__ = ["Adapter", "get", "names"]


def names() -> tuple[str, ...]:
    """Names of the formats that can be optimized."""
    return plugins.names(__name__, "ADAPTER")


def get(name: str) -> type[Adapter]:
    """The adapter of a format.

    Raises:
        UnsupportedError: There is none of this name.
    """
    adapter: type[Adapter] = plugins.load(__name__, name, "ADAPTER")
    return adapter
