"""What a graph makes of its constants, held against the bytes it is stored in.

A graph of a few kilobytes can ask for terabytes: one number is enough to broadcast, tile, pad or
count up to them, before the first token or with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kanna._util.typed import shown
from kanna._util.units import format_size
from kanna.errors import FormatError

MOST_OF_SMALL = 1 << 30
"""Bytes that any graph may make: masks and factors of rope have a twentieth of it."""
_MOST_TIMES = 64
"""Times its own bytes: codes of 2 bits become values of 32, in four steps that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutput:
    """What a node of a graph computes.

    Attributes:
        name: Of the node or of its output.
        operation: Of the node.
        nbytes: It has at least, whatever the text is.
        constant: Whether nothing of the text goes into it: a runtime may keep it from the start.
    """

    name: str
    operation: str
    nbytes: int
    constant: bool


def check(path: Path, computed: Iterable[NodeOutput], stored: int) -> None:
    """Refuse a graph that asks for far more memory than its weights are.

    Args:
        path: The graph.
        computed: What its nodes compute.
        stored: Bytes of the graph and of its weights.

    Raises:
        FormatError: One output, or all constant ones together, are too large.
    """
    limit, kept = MOST_OF_SMALL + _MOST_TIMES * stored, 0
    for one in computed:
        kept += one.nbytes if one.constant else 0
        needed = max(one.nbytes, kept)
        if needed > limit:
            raise FormatError(
                f"{path} asks for {format_size(needed)} of memory by {one.operation} "
                f"{shown(one.name)}",
                expected=f"at most {format_size(limit)} for a graph of {format_size(stored)}",
                todo="convert again from the original model",
            )
