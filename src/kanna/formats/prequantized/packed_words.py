"""compressed-tensors, format pack-quantized: codes packed along the inputs.

Widths that divide no word run on into the next one; in older checkpoints a word holds as many whole
codes as fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kanna.errors import FormatError
from kanna.formats.prequantized.groups import (
    I32,
    U32,
    Grouped,
    gathered,
    numbers,
    spread_words,
    words,
)
from kanna.formats.prequantized.scaled import NUMBERS, check_scales
from kanna.formats.stored_file import Part
from kanna.model import F32, U8, Tensor

_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")


def unpacked(tensors: Mapping[str, Tensor], widths: Sequence[int]) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one.

    Args:
        tensors: Tensors of the checkpoint, by name.
        widths: Bits of a code that the settings name; the sizes of a matrix say which it has.

    Raises FormatError: The parts of a matrix do not fit together.
    """
    return gathered(tensors, _PARTS, lambda base: _matrix(base, tensors, widths))


def _matrix(base: str, tensors: Mapping[str, Tensor], widths: Sequence[int]) -> Grouped:
    weight, scales = tensors[f"{base}.weight_packed"], tensors.get(f"{base}.weight_scale")
    shape = tensors.get(f"{base}.weight_shape")
    if scales is None or shape is None or len(weight.shape) != 2 or 0 in weight.shape:
        raise FormatError(
            f"{base} is no packed matrix", expected="weight_packed, weight_scale and weight_shape"
        )
    rows = weight.shape[0]
    bits, cols = _size(weight, shape, widths)
    if len(scales.shape) != 2 or scales.shape[0] != rows or not 0 < scales.shape[1] <= cols:
        raise FormatError(
            f"{scales.name} has shape {list(scales.shape)}", expected=f"[{rows}, groups]"
        )
    check_scales(scales, tuple(NUMBERS), zero=True)
    groups = scales.shape[1]
    zeros = tensors.get(f"{base}.weight_zero_point")
    place = tensors.get(f"{base}.weight_g_idx")
    order: I32 | None = None
    if place is not None and getattr(place, "data", None) is not None:
        order = words(place).view(np.int32)
        if order.shape != (cols,) or order.min() < 0 or order.max() >= groups:
            raise FormatError(
                f"{place.name} does not name groups of {cols} columns",
                expected=f"0 to {groups - 1}",
            )
    elif cols % groups:
        raise FormatError(f"{scales.name} has {groups} groups", expected=f"a divisor of {cols}")
    middle = np.float32(1 << (bits - 1))

    def read(start: int, stop: int) -> tuple[U8, F32, F32]:
        codes = _codes(words(weight, start, stop), bits, cols)
        scale = numbers(scales)[start:stop]
        if zeros is None:
            return codes, scale, np.full(scale.shape, middle, np.float32)
        if zeros.dtype not in ("i32", "u32"):  # one number each, not packed
            return codes, scale, numbers(zeros)[start:stop] + middle
        zero = _codes(words(zeros).T, bits, rows)[:, start:stop].T
        return codes, scale, zero.astype(np.float32)

    nbytes = weight.nbytes + scales.nbytes + (zeros.nbytes if zeros else 0)
    return Grouped(
        name=f"{base}.weight",
        shape=(rows, cols),
        bits=bits,
        groups=groups,
        number=scales.dtype,
        read=read,
        nbytes=nbytes,
        order=order,
        exact=zeros is None,
    )


def _size(weight: Tensor, shape: Tensor, widths: Sequence[int]) -> tuple[int, int]:
    """Bits and columns of a matrix, by the shape that is stored beside it.

    Without its values, which a header has not, they are those of the first width.
    """
    data: Part | None = getattr(shape, "data", None)
    if data is None:
        return widths[0], weight.shape[1] * 32 // widths[0]
    sizes = np.frombuffer(data.read(), "<i8").tolist() if shape.dtype == "i64" else []
    fit = [
        bits
        for bits in widths
        if len(sizes) == 2 and sizes[1] > 0 and weight.shape[1] in _lengths(bits, sizes[1])
    ]
    if len(fit) != 1 or sizes[0] != weight.shape[0]:
        columns = " or ".join(str(weight.shape[1] * 32 // bits) for bits in widths)
        raise FormatError(
            f"{shape.name} says {sizes}", expected=f"{weight.shape[0]} rows of about {columns}"
        )
    return fit[0], int(sizes[1])


def _lengths(bits: int, count: int) -> tuple[int, int]:
    """Words that `count` codes take, run on and whole."""
    return -(-count * bits // 32), -(-count // (32 // bits))


def _codes(packed: U32, bits: int, count: int) -> U8:
    """Codes uint8 [rows, count] of words uint32 [rows, words]."""
    if packed.shape[1] == _lengths(bits, count)[0]:
        return spread_words(packed, bits, count)
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (packed[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.reshape(len(packed), -1)[:, :count].astype(np.uint8)
