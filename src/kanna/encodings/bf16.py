"""BF16: the upper half of single precision, rounded to nearest even; a NaN stays a (quiet) NaN."""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8

_AT_ONCE = 1 << 14
"""Values that are rounded together: they stay in the nearest cache of a core."""


def _encode(_: Encoding, x: F32, *__: object) -> U8:
    values, out = x.reshape(-1), np.empty(x.shape, np.uint16)
    bits, rounded = values.view(np.uint32), out.reshape(-1)
    room = np.empty(min(_AT_ONCE, bits.size), np.uint32)
    for start in range(0, bits.size, _AT_ONCE):
        part = bits[start : start + _AT_ONCE]
        total = room[: part.size]
        np.right_shift(part, 16, out=total)
        np.bitwise_and(total, 1, out=total)
        np.add(total, 0x7FFF, out=total)
        np.add(total, part, out=total)
        np.right_shift(total, 16, out=total)
        rounded[start : start + _AT_ONCE] = total
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 64).astype(np.uint16)
    return out.view(np.uint8)


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    bits = data.view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


ENCODING = Encoding(
    name="bf16",
    summary=(
        "BF16: the upper half of single precision, rounded to nearest even; a NaN stays a "
        "(quiet) NaN"
    ),
    ggml_type=30,
    file_type=32,
    label="BF16",
    block=1,
    block_bytes=2,
    encoder=_encode,
    decoder=_decode,
)
