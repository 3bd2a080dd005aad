"""Two matrices of a plan that mlx-lm holds as one, the first above the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kanna.encodings import Encoding
from kanna.families.stacked import Stacked
from kanna.formats.views import Renamed
from kanna.model import columns, num_rows
from kanna.plan import TensorPlan

Halves = Mapping[str, tuple[str, str]]
"""End of the name of the whole → ends of the names of its halves."""


def whole_name(name: str, halves: Halves) -> str:
    """The name of the matrix that a tensor lies in: its own, where it is no half."""
    for whole, ends in halves.items():
        for end in ends:
            if name.endswith("." + end):
                return name.removesuffix(end) + whole
    return name


def joined(entries: Sequence[TensorPlan], halves: Halves) -> list[TensorPlan]:
    """The entries with both halves of each matrix as one, which has one encoding.

    Where a plan gives the halves two, both get the one of fewer bytes, so that no budget is
    exceeded.
    """
    out: dict[str, TensorPlan] = {}
    for entry in entries:
        name = whole_name(entry.name, halves)
        first = out.get(name)
        out[name] = entry if first is None else _one(name, first, entry)
    return list(out.values())


def _one(name: str, first: TensorPlan, second: TensorPlan) -> TensorPlan:
    """One matrix of both; they read the same inputs, so what guides the first guides all of it."""
    rows, width = num_rows(first.tensor), columns(first.tensor)

    def size(encoding: Encoding) -> int:
        return encoding.row_bytes(width)

    def both(tuned: str) -> Any:
        values = [getattr(first, tuned), getattr(second, tuned)]
        if all(v is None for v in values):
            return None
        like = next(v for v in values if v is not None)
        return np.concatenate([np.zeros_like(like) if v is None else v for v in values])

    pair = Stacked(name, [first.tensor, second.tensor])
    return replace(
        first,
        name=name,
        tensor=Renamed(name, pair, (2 * rows, width)),
        encoding=min(first.encoding, second.encoding, key=size),
        scale=both("scale"),
        offset=both("offset"),
    )
