"""Lazy views that formats and families share: another name or shape, an offset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np

from kanna.model import F32, U8, Tensor, num_rows


@dataclass(slots=True)
class Renamed:
    """The same rows under another name, and under another shape where one is given."""

    name: str
    inner: Tensor
    shape: tuple[int, ...] = ()
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.shape or self.inner.shape, self.inner.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return self.inner.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return self.inner.rows(start, stop)

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return self.inner.raw(start, stop)


@dataclass(slots=True)
class Shifted:
    """Every value plus a constant, in float32."""

    name: str
    inner: Tensor
    offset: float
    dtype: str = "f32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.inner.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return 4 * prod(self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return self.inner.rows(start, stop) + np.float32(self.offset)

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return None


@dataclass(slots=True)
class Refolded:
    """The values of a vector, or of a matrix back as one, in rows of another length.

    All of them are read at once: for what has a value per head or per channel.

    Attributes:
        change: What becomes of the values as they lie in `inner`, before they are folded.
    """

    name: str
    inner: Tensor
    shape: tuple[int, ...]
    change: Callable[[F32], F32] | None = None
    dtype: str = "f32"

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return 4 * prod(self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        values = self.inner.rows(0, num_rows(self.inner))
        if self.change is not None:
            values = self.change(values)
        return values.reshape(-1, self.shape[-1])[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return None
