"""Lazy views between one matrix per expert and one stack of all of them; none reads ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32, U8, Tensor, num_rows


@dataclass(slots=True)
class Stacked:
    """Tensors of one shape as one tensor with a further axis before theirs."""

    name: str
    parts: Sequence[Tensor]
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (len(self.parts), *self.parts[0].shape)
        kinds = {part.dtype for part in self.parts}
        self.dtype = kinds.pop() if len(kinds) == 1 else "f32"

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return sum(part.nbytes for part in self.parts)

    def _runs(self, start: int, stop: int) -> Iterator[tuple[Tensor, int, int]]:
        """The parts that rows [start, stop) lie in, and which of their rows these are."""
        size = num_rows(self.parts[0])
        for index in range(start // size, -(-stop // size)):
            first = index * size
            yield self.parts[index], max(start - first, 0), min(stop - first, size)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return np.concatenate([part.rows(a, b) for part, a, b in self._runs(start, stop)])

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        if any(part.dtype != self.dtype for part in self.parts):
            return None
        blocks = [part.raw(a, b) for part, a, b in self._runs(start, stop)]
        known = [block for block in blocks if block is not None]
        return np.concatenate(known) if len(known) == len(blocks) else None


@dataclass(slots=True)
class Picked:
    """Some rows of a tensor, in any order, under another shape.

    Attributes:
        name: Its name.
        inner: Where the rows are.
        shape: Its shape; as many rows as `places`, and the columns of `inner`.
        places: Which row of `inner` each row is, int64 [rows].
    """

    name: str
    inner: Tensor
    shape: tuple[int, ...]
    places: NDArray[np.int64]
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.inner.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return self.inner.nbytes * len(self.places) // max(1, num_rows(self.inner))

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """Stretches of `inner` that hold the rows, and where in each stretch they lie."""
        wanted = self.places[start:stop]
        # A stretch ends where so much lies between two rows that reading it costs more.
        ends = np.flatnonzero(np.abs(np.diff(wanted)) > _GAP) + 1
        for run in np.split(wanted, ends):
            first, last = int(run.min()), int(run.max()) + 1
            yield first, last, run - first

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return np.concatenate([self.inner.rows(a, b)[at] for a, b, at in self._runs(start, stop)])

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        blocks: list[U8] = []
        for first, last, at in self._runs(start, stop):
            block = self.inner.raw(first, last)
            if block is None:
                return None
            blocks.append(block[at])
        return np.concatenate(blocks)


@dataclass(slots=True)
class Turned:
    """Matrices [experts, columns, rows] as [experts, rows, columns]; one is held at a time."""

    name: str
    inner: Tensor
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)
    _held: tuple[int, F32] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        *stack, rows, columns = self.inner.shape
        self.shape, self.dtype = (*stack, columns, rows), "f32"
        if self.inner.dtype in ("f16", "bf16"):
            self.dtype = self.inner.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return self.inner.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        size = self.shape[-2]
        blocks = [
            self._matrix(index)[max(start - index * size, 0) : stop - index * size]
            for index in range(start // size, -(-stop // size))
        ]
        return np.concatenate(blocks)

    def _matrix(self, index: int) -> F32:
        held = self._held
        if held is None or held[0] != index:
            size = self.inner.shape[-2]
            rows = self.inner.rows(index * size, (index + 1) * size)
            held = self._held = index, np.ascontiguousarray(rows.T)
        return held[1]

    def raw(self, start: int, stop: int) -> U8 | None:
        """None: the values are moved."""
        return None


_GAP = 4
"""Rows between two wanted ones that are read along."""


def part_of_each(name: str, stack: Tensor, start: int, count: int, step: int = 1) -> Tensor:
    """Rows start, start + step … of every matrix of a stack, `count` of each.

    Args:
        name: Name of the result.
        stack: Matrices [experts, rows, columns].
        start: First row of each.
        count: Rows of each.
        step: 2 where two kinds of rows alternate.
    """
    experts, rows, columns = stack.shape
    within = start + step * np.arange(count)
    places = (np.arange(experts)[:, None] * rows + within).reshape(-1)
    return Picked(name, stack, (experts, count, columns), places)


def one_of(name: str, stack: Tensor, index: int) -> Tensor:
    """Matrix `index` of a stack [experts, …]."""
    shape = stack.shape[1:]
    rows = num_rows(stack) // stack.shape[0]
    return Picked(name, stack, shape, index * rows + np.arange(rows))
