"""Matrices of small codes, each times the scale of its block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna import encodings
from kanna.encodings import small_floats, transcoding
from kanna.errors import FormatError, SourceError
from kanna.model import F32, U8, Tensor

NUMBERS = {"f32": 4, "bf16": 2, "f16": 2}
"""Bytes of the types that scales are plain numbers in."""
POWERS = ("f8_e8m0", "u8")
"""Types of scales that are powers of two, a byte each."""
INT8: F32 = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
"""Values of bytes that are signed whole numbers."""
_AGAIN = "fetch the weights again, from where the model was published"
_PIECE = 1 << 22


@dataclass(slots=True, kw_only=True)
class ScaledCodes:
    """Matrices of codes, decoded row by row: table[code] * scale, or (table[code] - zero) * scale.

    Attributes:
        shape: The last two axes are rows and columns; one before them counts matrices.
        codes: Bytes; of 16 values each byte has two, the lower four bits first.
        table: Value of each code.
        scales: Of each matrix as many rows and columns as it has blocks.
        block: Rows and columns under one scale; the last ones may be fewer.
        number: The floating type that the values are meant for.
        zeros: Codes of zero, one beside each scale.
        whole: What the numbers of `scales` become before use, where a matrix has a scale too.
        carried: The encoding of MLX that holds the same codes and scales; "" for none.
        factor: What every product is multiplied by at last.
    """

    name: str
    shape: tuple[int, ...]
    codes: Tensor
    table: F32
    scales: Tensor
    block: tuple[int, int]
    number: str
    zeros: Tensor | None = None
    whole: Callable[[F32], F32] | None = None
    carried: str = ""
    factor: float = 1

    @property
    def dtype(self) -> str:
        """The encoding of MLX that holds the same, or else the type the values are meant for."""
        return self.carried or self.number

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes + (self.zeros.nbytes if self.zeros else 0)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        values = self.table[self._codes(start, stop)]
        scale = self._grid(self.scales, start, stop)
        if self.whole is not None:
            scale = self.whole(scale)
        with np.errstate(all="ignore"):  # what overflows is the caller's business
            if self.zeros is not None:
                values = values - self._spread(self._grid(self.zeros, start, stop))
            values = values * self._spread(scale)
            return values if self.factor == 1 else values * np.float32(self.factor)

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) in the encoding `carried`, uint8 [rows, row bytes]; None without."""
        if not self.carried:
            return None
        encoding = encodings.get(self.carried)
        codes = stored_bytes(self.codes, *self._bytes(self.codes, start, stop))
        scales = self._places(self.scales, start, stop, _bytes_of)
        repeats = self.block[1] // encoding.block
        # Of a block that is cut at the right edge, fewer groups have its scale.
        groups = np.repeat(scales, repeats, axis=1)[:, : self.shape[-1] // encoding.block]
        return encoding.join([codes.reshape(stop - start, -1), groups])

    def _codes(self, start: int, stop: int) -> U8:
        data = stored_bytes(self.codes, *self._bytes(self.codes, start, stop))
        data = data.reshape(stop - start, -1)
        if len(self.table) > 16:
            return data
        return np.stack([data & 15, data >> 4], axis=2).reshape(len(data), -1).astype(np.uint8)

    def _bytes(self, tensor: Tensor, start: int, stop: int) -> tuple[int, int]:
        """Where rows [start, stop) lie among the bytes of the codes."""
        size = tensor.nbytes // max(1, prod(self.shape[:-1]))
        return start * size, stop * size

    def _grid(self, tensor: Tensor, start: int, stop: int) -> F32:
        return self._places(tensor, start, stop, values_of)

    def _places(
        self, tensor: Tensor, start: int, stop: int, read: Callable[[Tensor, int, int], Any]
    ) -> Any:
        """What `read` gives for the blocks of rows [start, stop), [rows, block columns]."""
        in_columns = -(-self.shape[-1] // self.block[1])
        matrix, row = np.divmod(np.arange(start, stop), self.shape[-2])
        places = matrix * -(-self.shape[-2] // self.block[0]) + row // self.block[0]
        if prod(tensor.shape) == 1:
            places[:] = 0
        first, last = int(places[0]), int(places[-1]) + 1
        some = read(tensor, first * in_columns, last * in_columns)
        return some.reshape(last - first, in_columns)[places - first]

    def _spread(self, grid: F32) -> F32:
        """A number of each block, [rows, block columns], for each of its columns."""
        if grid.shape[1] == 1:
            return grid
        return np.repeat(grid, self.block[1], axis=1)[:, : self.shape[-1]]


def stored_bytes(tensor: Tensor, start: int = 0, stop: int | None = None) -> U8:
    """Bytes [start, stop) of a stored tensor, all by default. SourceError: it was not fetched."""
    data: Any = getattr(tensor, "data", None)
    if data is None:
        raise SourceError(f"the values of {tensor.name} were not fetched")
    stop = tensor.nbytes if stop is None else stop
    return data[start:stop] if isinstance(data, np.ndarray) else data.read(start, stop)


def has_values(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read, and not only its header."""
    return getattr(tensor, "data", None) is not None


def values_of(tensor: Tensor, start: int, stop: int) -> F32:
    """Numbers [start, stop) of a tensor of scales or zeros, float32 [stop - start]."""
    size = NUMBERS.get(tensor.dtype, 1)
    data = stored_bytes(tensor, start * size, stop * size)
    if tensor.dtype in NUMBERS:
        return transcoding.numbers(data, tensor.dtype)
    return _table(tensor.dtype)[data]


def _table(dtype: str) -> F32:
    """Values of scales and zeros of a byte each."""
    return {"i8": INT8, "f8_e4m3": small_floats.E4M3}.get(dtype, small_floats.E8M0)


def _bytes_of(tensor: Tensor, start: int, stop: int) -> U8:
    return stored_bytes(tensor, start, stop)


def scalar(tensor: Tensor) -> np.float32:
    """The one number of a tensor, which must be a scale.

    Raises FormatError. Of a tensor that was not fetched it is 1: nothing is computed with it.
    """
    if prod(tensor.shape) != 1:
        raise FormatError(
            f"{tensor.name} has shape {list(tensor.shape)}", expected="one number", todo=_AGAIN
        )
    check_scales(tensor, tuple(NUMBERS))
    return values_of(tensor, 0, 1)[0] if has_values(tensor) else np.float32(1)


def check_scales(tensor: Tensor, kinds: Sequence[str], *, zero: bool = False) -> None:
    """Refuse scales of another type than `kinds`, and values that can be none.

    Every value is read where it is on this machine, some at a time.

    Args:
        tensor: The scales.
        kinds: Types they may have.
        zero: Whether one may be zero, as some libraries leave that of a block of zeros.

    Raises:
        FormatError: The type is another, or one of them is zero, negative, infinite or NaN.
    """
    if tensor.dtype not in kinds:
        raise FormatError(
            f"{tensor.name} holds {tensor.dtype}", expected=" or ".join(kinds), todo=_AGAIN
        )
    if not has_values(tensor):
        return
    count = prod(tensor.shape)
    for start in range(0, count, _PIECE):
        stop = min(start + _PIECE, count)
        if tensor.dtype in NUMBERS or _has_wrong_byte(tensor, start, stop, zero):
            values = values_of(tensor, start, stop)
            wrong = _wrong(values, zero)
            if wrong.any():
                raise FormatError(
                    f"{tensor.name} has {int(wrong.sum())} scales that can be none, such as "
                    f"{values[wrong][0]:g} at place {start + int(np.argmax(wrong))}",
                    expected="finite numbers from zero" if zero else "finite numbers above zero",
                    todo=_AGAIN,
                )


def _wrong(values: F32, zero: bool) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return ~((values >= 0 if zero else values > 0) & np.isfinite(values))


def _has_wrong_byte(tensor: Tensor, start: int, stop: int, zero: bool) -> bool:
    """Whether scales of a byte each have one that can be none: by a table of all bytes."""
    wrong, data = _wrong(_table(tensor.dtype), zero), stored_bytes(tensor, start, stop)
    if wrong.sum() == 1:  # of powers of two, which there are many of: several times as fast
        return bool((data == np.argmax(wrong)).any())
    return bool(wrong[data].any())


def need_scales(tensor: Tensor, shape: tuple[int, ...], kinds: Sequence[str]) -> Tensor:
    """Scales that must have this shape; FormatError as for `check_scales`."""
    if tuple(tensor.shape) != shape:
        raise FormatError(
            f"{tensor.name} has shape {list(tensor.shape)}", expected=str(list(shape)), todo=_AGAIN
        )
    check_scales(tensor, kinds)
    return tensor


def block_of(
    shape: tuple[int, ...], scales: Tensor, block: tuple[int, int] | None
) -> tuple[int, int]:
    """Rows and columns under each of the scales of matrices.

    Args:
        shape: Of the matrices; the last two axes are rows and columns.
        scales: Their scales.
        block: Rows and columns that the settings name; None: a scale is of a row, of a matrix or of
            all.

    Raises:
        FormatError: There are more or fewer scales.
    """
    before, rows, columns = shape[:-2], shape[-2], shape[-1]
    given = tuple(scales.shape)
    if block is not None:
        wanted = (*before, -(-rows // block[0]), -(-columns // block[1]))
        if given == wanted or prod(given) == prod(wanted) == 1:
            return block
        known = f"{list(wanted)}: one for {block[0]} x {block[1]} values"
    else:
        if prod(given) == 1:
            return rows, columns
        if before and given in (before, (*before, 1, 1)):
            return rows, columns
        wanted = (*before, rows, 1)
        if given in (wanted, wanted[:-1]):
            return 1, columns
        known = f"one number, or {list(wanted)}"
    raise FormatError(
        f"{scales.name} has shape {list(given)} for matrices {list(shape)}",
        expected=known,
        todo=_AGAIN,
    )


def float_type(tensors: Iterable[Tensor]) -> str:
    """The floating type of the matrices that are not packed; bf16 where there are none."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype in NUMBERS and len(tensor.shape) > 1 and "_scale" not in tensor.name:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda kind: sizes[kind]) if sizes else "bf16"
