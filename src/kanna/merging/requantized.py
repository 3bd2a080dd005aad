"""Merging into a quantized base: the plan that keeps its types, and what storing them again costs.

A quantized matrix lies on the grid that it was rounded to; with a change added to it, it is rounded
a second time. Errors are measured on rows of every changed matrix, not predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanna import encodings
from kanna.adapters.merged_folder import Merged
from kanna.formats.base import FLOATS
from kanna.model import F32, num_rows
from kanna.plan import Plan, RuleModel
from kanna.sources import Source

_PARTS, _ROWS = 4, 8
"""Blocks of rows of a matrix that are looked at, and rows of each."""
StoredRows = Callable[[str, int, int], F32]
"""Rows [start, stop) of a tensor as they are stored: f32 [stop - start, columns]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingCost:
    """What storing changed matrices again adds, as root mean squares over sampled rows.

    Attributes:
        tensors: Matrices that adapters change and that a quantized type holds.
        of_values: Error ÷ values.
        of_change: Error ÷ what the adapters add.
        worst: The matrix with the largest error ÷ change.
        worst_of_change: That of it.
    """

    tensors: int
    of_values: float
    of_change: float
    worst: str
    worst_of_change: float

    def sentence(self) -> str:
        """The figures, as people read them; no full stop."""
        return (
            f"storing {self.tensors} changed matrices in their quantized types again adds an error "
            f"of {self.of_values:.2%} of their values, {self.of_change:.0%} of the adapter's own "
            f"change (up to {self.worst_of_change:.0%}, in {self.worst})"
        )


def same_types(source: Source) -> Plan:
    """The plan that stores every matrix of a GGUF in the type it has there.

    Args:
        source: The base.
    """
    rules = [
        RuleModel(pattern=f"^{re.escape(name)}$", encoding=tensor.dtype)
        for name, tensor in source.tensors.items()
        if len(tensor.shape) > 1 and tensor.dtype in encodings.names()
    ]
    return Plan(name="types of the base", encoding="f16", rules=rules)


def rounded_again(merged: Source) -> StoredRows:
    """Rows of changed matrices as their types hold them, rounded to the nearest value.

    Args:
        merged: The source with adapters merged in.
    """

    def stored(name: str, start: int, stop: int) -> F32:
        tensor = merged.tensors[name]
        assert isinstance(tensor, Merged)
        encoding = encodings.get(tensor.inner.dtype)
        values = tensor.rows(start, stop)
        return encoding.decode(encoding.encode(values), values.shape[1])

    return stored


def measure(merged: Source, stored: StoredRows) -> RoundingCost | None:
    """What storing costs; None where adapters change no quantized matrix.

    Args:
        merged: The source with adapters merged in.
        stored: What is stored of it.
    """
    squares: dict[str, list[float]] = {}
    for name, tensor in merged.tensors.items():
        if not isinstance(tensor, Merged) or tensor.inner.dtype in FLOATS:
            continue
        sums = np.zeros(3)
        for start in np.linspace(0, max(0, num_rows(tensor) - _ROWS), _PARTS).astype(int):
            stop = min(int(start) + _ROWS, num_rows(tensor))
            exact, base = (t.rows(int(start), stop) for t in (tensor, tensor.inner))
            parts = (stored(name, int(start), stop) - exact, exact - base, exact)
            sums += [float(np.square(part, dtype=np.float64).sum()) for part in parts]
        squares[name] = sums.tolist()
    if not squares:
        return None
    error, change, values = np.sum(list(squares.values()), axis=0)
    shares = {n: (e / c) ** 0.5 if c else 0.0 for n, (e, c, _) in squares.items()}
    worst = max(shares, key=lambda name: shares[name])
    return RoundingCost(
        tensors=len(squares),
        of_values=float((error / values) ** 0.5) if values else 0.0,
        of_change=float((error / change) ** 0.5) if change else 0.0,
        worst=worst,
        worst_of_change=shares[worst],
    )
