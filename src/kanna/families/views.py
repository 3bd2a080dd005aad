"""Lazy views of a source's tensors: another name, another row order, an offset.

None reads ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32, U8, Tensor


@dataclass(slots=True)
class HeadRows:
    """Rows of a q or k projection in the other rotary order, head by head.

    Hugging Face stores a head's rotary pairs as two halves (a0 a1 … b0 b1 …), llama.cpp's `llama`
    architecture interleaved (a0 b0 a1 b1 …). `interleave` goes from the first to the second.
    """

    name: str
    inner: Tensor
    head_dim: int
    interleave: bool = True
    shape: tuple[int, ...] = field(init=False)
    dtype: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.inner.shape, self.inner.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return self.inner.nbytes

    def _source(self, wanted: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where the wanted rows (of a bias: columns) lie in the inner tensor."""
        half = self.head_dim // 2
        head, at = np.divmod(wanted, self.head_dim)
        source = (at % 2) * half + at // 2 if self.interleave else (at % half) * 2 + at // half
        return head * self.head_dim + source

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        if len(self.shape) == 1:
            # A bias is one row: its columns are permuted instead.
            return self.inner.rows(start, stop)[:, self._source(np.arange(self.shape[0]))]
        first, last = self._heads(start, stop)
        return self.inner.rows(first, last)[self._source(np.arange(start, stop)) - first]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        if len(self.shape) == 1:
            return None
        first, last = self._heads(start, stop)
        data = self.inner.raw(first, last)
        return None if data is None else data[self._source(np.arange(start, stop)) - first]

    def _heads(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of all heads that [start, stop) touches."""
        return start // self.head_dim * self.head_dim, -(-stop // self.head_dim) * self.head_dim


@dataclass(slots=True)
class PickedColumns:
    """Columns in another order; `places` says which column of `inner` each one is."""

    name: str
    inner: Tensor
    places: NDArray[np.int64]
    dtype: str = "f32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (*self.inner.shape[:-1], len(self.places))
        if self.inner.dtype in _ITEM_BYTES:
            self.dtype = self.inner.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return _ITEM_BYTES[self.dtype] * prod(self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return self.inner.rows(start, stop)[:, self.places]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        data = self.inner.raw(start, stop) if self.dtype == self.inner.dtype else None
        if data is None:
            return None
        items = data.reshape(len(data), -1, _ITEM_BYTES[self.dtype])
        return np.ascontiguousarray(items[:, self.places]).reshape(len(data), -1)


_ITEM_BYTES = {"f16": 2, "bf16": 2, "f32": 4}


@dataclass(slots=True)
class Mapped:
    """Every value through a function, in float32."""

    name: str
    inner: Tensor
    change: Callable[[F32], F32]
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
        return self.change(self.inner.rows(start, stop))

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return None


@dataclass(slots=True)
class ScaledRows:
    """Every row times a number of its own, in float32."""

    name: str
    inner: Tensor
    factors: F32
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
        return self.inner.rows(start, stop) * self.factors[start:stop, None]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return None


@dataclass(slots=True)
class Computed:
    """Values made from the config, kept in memory (a few hundred numbers)."""

    name: str
    values: F32
    dtype: str = "f32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return self.values.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        return self.values.reshape(-1, self.shape[-1])[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, or None where they must be computed."""
        return np.ascontiguousarray(self.rows(start, stop)).view(np.uint8)
