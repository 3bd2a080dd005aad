"""Lazy views of a source's tensors: another name, another row order, an offset. None reads ahead."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from kanna.model import F32, U8, Tensor


@dataclass(slots=True)
class Renamed:
    """The same tensor under another name, optionally with another shape of as many values per row."""

    name: str
    inner: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> str:
        return self.inner.dtype

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    def rows(self, start: int, stop: int) -> F32:
        return self.inner.rows(start, stop)

    def raw(self, start: int, stop: int) -> U8 | None:
        return self.inner.raw(start, stop)


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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> str:
        return self.inner.dtype

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    def _span(self, start: int, stop: int) -> tuple[int, int, np.ndarray]:
        """First and last source row of the heads touched, and the wanted rows among them."""
        dim = self.head_dim
        half = dim // 2
        if len(self.inner.shape) == 1:
            # A bias is one row: its columns are permuted instead.
            wanted, first, last = np.arange(self.inner.shape[0]), 0, self.inner.shape[0]
        else:
            wanted, first, last = np.arange(start, stop), start // dim * dim, -(-stop // dim) * dim
        head, at = np.divmod(wanted, dim)
        source = (at % 2) * half + at // 2 if self.interleave else (at % half) * 2 + at // half
        return first, last, head * dim + source - first

    def rows(self, start: int, stop: int) -> F32:
        first, last, wanted = self._span(start, stop)
        if len(self.inner.shape) == 1:
            return self.inner.rows(start, stop)[:, wanted]
        return self.inner.rows(first, last)[wanted]

    def raw(self, start: int, stop: int) -> U8 | None:
        first, last, wanted = self._span(start, stop)
        if len(self.inner.shape) == 1:
            return None
        data = self.inner.raw(first, last)
        return None if data is None else data[wanted]


@dataclass(slots=True)
class Shifted:
    """Every value plus a constant, in float32."""

    name: str
    inner: Tensor
    offset: float
    dtype: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def nbytes(self) -> int:
        return 4 * prod(self.inner.shape)

    def rows(self, start: int, stop: int) -> F32:
        return self.inner.rows(start, stop) + np.float32(self.offset)

    def raw(self, start: int, stop: int) -> U8 | None:
        return None


@dataclass(slots=True)
class Computed:
    """Values made from the config, kept in memory (a few hundred numbers)."""

    name: str
    values: F32
    dtype: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def rows(self, start: int, stop: int) -> F32:
        return self.values.reshape(-1, self.values.shape[-1])[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        return np.ascontiguousarray(self.rows(start, stop)).view(np.uint8)
