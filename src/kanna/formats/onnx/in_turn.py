"""Gates and ups of experts as one tensor whose rows take turns, as onnxruntime reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kanna.model import F32, U8, Tensor
from kanna.plan.types import TensorPlan


@dataclass(slots=True)
class InTurn:
    """Tensors [experts, rows, columns] as one [experts, parts · rows, columns], row by row."""

    name: str
    parts: Sequence[Tensor]
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        experts, rows, columns = self.parts[0].shape
        self.shape = (experts, len(self.parts) * rows, columns)
        kinds = {part.dtype for part in self.parts}
        self.dtype = kinds.pop() if len(kinds) == 1 else "f32"

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return sum(part.nbytes for part in self.parts)

    def _bounds(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of each part that hold the rows [start, stop)."""
        return start // len(self.parts), -(-stop // len(self.parts))

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        first, last = self._bounds(start, stop)
        both = _joined([part.rows(first, last) for part in self.parts])
        return both[start - first * len(self.parts) :][: stop - start]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        first, last = self._bounds(start, stop)
        blocks = [part.raw(first, last) for part in self.parts]
        known = [block for block in blocks if block is not None]
        if len(known) < len(blocks) or any(part.dtype != self.dtype for part in self.parts):
            return None
        return _joined(known)[start - first * len(self.parts) :][: stop - start]


def in_turn(entries: Sequence[TensorPlan]) -> TensorPlan:
    """What becomes of tensors of one encoding and one input, as what becomes of all in turn."""
    name = " and ".join(entry.name for entry in entries)
    first = entries[0]
    return replace(
        first,
        name=name,
        tensor=InTurn(name, [entry.tensor for entry in entries]),
        scale=_tuned([entry.scale for entry in entries], 0.0),
        offset=_tuned([entry.offset for entry in entries], 0.0),
    )


def _tuned(values: Sequence[Any], untuned: float) -> Any:
    """Factors or offsets of rows in turn; None where no part has any."""
    shapes = {v.shape: v.dtype for v in values if v is not None}
    if not shapes:
        return None
    shape, dtype = next(iter(shapes.items()))
    return _joined([np.full(shape, untuned, dtype) if v is None else v for v in values])


def _joined(blocks: Sequence[Any]) -> Any:
    """Arrays [rows, …] as one whose rows take turns."""
    return np.stack(blocks, axis=1).reshape(-1, *blocks[0].shape[1:])
