"""Forms: how values differ between Hugging Face and GGUF beyond rotary order and norm offsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import mul

import numpy as np
from numpy.typing import NDArray

from kanna.families._config import Config
from kanna.families.stacked import Picked
from kanna.families.views import Mapped, PickedColumns, ScaledRows
from kanna.formats.views import Refolded, Renamed
from kanna.model import F32, Tensor

Order = Callable[[Config], NDArray[np.int64]]
"""Which row (or column) of Hugging Face's tensor each one of GGUF's is."""


def _one(_: Config) -> int:
    return 1


@dataclass(frozen=True, slots=True)
class Same:
    """The values as they are, where the rest of the family's tensors are changed."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """The same values."""
        return Renamed(name, tensor)

    def to_hf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """The same values."""
        return Renamed(name, tensor)


@dataclass(frozen=True, slots=True)
class FirstRowRepeated:
    """A table that has fewer rows than the vocabulary: tokens beyond them read the first."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the table, by which the family names it."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """With a row for every token."""
        rows = tensor.shape[0]
        places = np.append(np.arange(rows), np.zeros(max(c.vocab - rows, 0), np.int64))
        return Picked(name, tensor, (len(places), *tensor.shape[1:]), places)

    def to_hf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """All rows: config.json says how many there are."""
        return Renamed(name, tensor)


@dataclass(frozen=True, slots=True)
class OneRow:
    """A matrix of one row, which is a vector in GGUF."""

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the matrix."""
        return (1, *shape)

    def to_gguf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """The row alone."""
        return Renamed(name, tensor, tensor.shape[1:])

    def to_hf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """As a matrix."""
        return Renamed(name, tensor, (1, *tensor.shape))


@dataclass(frozen=True, slots=True)
class Multiplied:
    """Values times a number of the config, which is 1 on the way back.

    Attributes:
        factor: The number, or one for every row, float32 [rows].
    """

    factor: Callable[[Config], float | F32]

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """Times the number."""
        factor = self.factor(c)
        if isinstance(factor, np.ndarray):
            return ScaledRows(name, tensor, factor)
        return (
            Renamed(name, tensor) if factor == 1.0 else Mapped(name, tensor, partial(mul, factor))
        )

    def to_hf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """As they are."""
        return Renamed(name, tensor)


@dataclass(frozen=True, slots=True)
class AsMatrix:
    """A vector, which is a matrix in GGUF.

    Attributes:
        columns: Values in a row of the matrix.
        there: Changes the values on the way to GGUF.
        back: Changes them on the way back.
    """

    columns: Callable[[Config], int] = _one
    there: Callable[[F32], F32] | None = None
    back: Callable[[F32], F32] | None = None

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The length of the vector."""
        return (prod(shape),)

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """In rows."""
        columns = self.columns(c)
        return Refolded(name, tensor, (tensor.shape[0] // columns, columns), self.there)

    def to_hf(self, name: str, tensor: Tensor, _: Config) -> Tensor:
        """As a vector."""
        return Refolded(name, tensor, (prod(tensor.shape),), self.back)


@dataclass(frozen=True, slots=True)
class DepthwiseConvolution:
    """A convolution over time, [channels, 1, kernel] in torch and [channels, kernel] in GGUF.

    Attributes:
        order: Order of the channels in GGUF; None: that of torch.
    """

    order: Order | None = None

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in torch; a bias has the same in both."""
        return shape if len(shape) == 1 else (shape[0], 1, shape[1])

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """Without the axis of one."""
        if len(tensor.shape) == 1:
            return Renamed(name, tensor)
        flat = Renamed(name, tensor, (tensor.shape[0], tensor.shape[-1]))
        return flat if self.order is None else Picked(name, flat, flat.shape, self.order(c))

    def to_hf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """With it."""
        if len(tensor.shape) == 1:
            return Renamed(name, tensor)
        if self.order is not None:
            tensor = Picked(name, tensor, tensor.shape, np.argsort(self.order(c)))
        return Renamed(name, tensor, (tensor.shape[0], 1, tensor.shape[1]))


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Rows (of a vector: values) in another order.

    Attributes:
        order: Order of the rows in GGUF.
        there: Changes the values on the way to GGUF.
        back: Changes them on the way back.
    """

    order: Order
    there: Callable[[F32], F32] | None = None
    back: Callable[[F32], F32] | None = None

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """In the order of GGUF."""
        return _ordered(name, tensor, self.order(c), self.there)

    def to_hf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """In the order of Hugging Face."""
        return _ordered(name, tensor, np.argsort(self.order(c)), self.back)


@dataclass(frozen=True, slots=True)
class ColumnOrder:
    """Columns in another order.

    Attributes:
        order: Order of the columns in GGUF.
    """

    order: Order

    def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same shape."""
        return shape

    def to_gguf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """In the order of GGUF."""
        return PickedColumns(name, tensor, self.order(c))

    def to_hf(self, name: str, tensor: Tensor, c: Config) -> Tensor:
        """In the order of Hugging Face."""
        return PickedColumns(name, tensor, np.argsort(self.order(c)))


def _ordered(
    name: str, tensor: Tensor, order: NDArray[np.int64], change: Callable[[F32], F32] | None
) -> Tensor:
    if len(tensor.shape) == 1:
        moved: Tensor = PickedColumns(name, tensor, order)
    else:
        moved = Picked(name, tensor, tensor.shape, order)
    return moved if change is None else Mapped(name, moved, change)
