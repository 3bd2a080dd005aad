"""Whole numbers with one scale per row: the weights of QDQ graphs, as NPUs multiply them.

value = code * scale, a row being an output channel. Codes of 4 and 8 bits lie around 0, and the
lowest one is not used; the scale is in single precision and lies before the codes of its row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kanna.encodings._core import METHODS, refuse_nonfinite
from kanna.encodings.base import Encoding
from kanna.errors import EncodingError
from kanna.model import F32, U8

BITS = (4, 8)
TRIED = {8: np.linspace(0.9, 1.0, 3), 4: np.linspace(0.5, 1.0, 26)}
"""Shares of the step that holds the largest value, by bits of a weight."""
_SCALE = 4
"""Bytes of a scale."""


def name_of(bits: int) -> str:
    """The name of the encoding of so many bits."""
    return f"int{bits}_channel"


def bits_of(name: str) -> int | None:
    """Bits of a code of the encoding of this name; None for one of another kind."""
    return next((bits for bits in BITS if name == name_of(bits)), None)


def searched_scales(weight: F32, squares: F32, bits: int) -> F32:
    """The scale of each column with the least error of rounding to nearest, f32 [out].

    Args:
        weight: f32 [in, out].
        squares: Mean square of every input, f32 [in].
        bits: Of a code, whose lowest one is not used.
    """
    full = plain_scales(weight, bits)
    shares = TRIED[bits]
    errors = [
        squares @ np.square(nearest(weight, step, bits) * step - weight)
        for step in ((full * share).astype(np.float32) for share in shares)
    ]
    return (full * shares[np.argmin(errors, axis=0)]).astype(np.float32)


def plain_scales(weight: F32, bits: int) -> F32:
    """The scale of each column under which its largest value has the largest code, f32 [out]."""
    return (np.maximum(np.abs(weight).max(axis=0), 1e-12) / _most(bits)).astype(np.float32)


def nearest(weight: F32, scales: F32, bits: int) -> NDArray[np.int8]:
    """The nearest codes of a matrix f32 [in, out] under the scales of its columns, int8."""
    most = _most(bits)
    return np.clip(np.rint(weight / scales), -most, most).astype(np.int8)


def _most(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def stored(codes: NDArray[np.int8], scales: F32, bits: int) -> U8:
    """Rows of a matrix, its scale before the codes of each, uint8 [rows, row bytes].

    Args:
        codes: int8 [rows, cols].
        scales: f32 [rows].
        bits: Of a code.
    """
    packed = codes.view(np.uint8)
    if bits == 4:
        packed = ((packed[:, ::2] & 15) | (packed[:, 1::2] << 4)).astype(np.uint8)
    return np.concatenate([scales.astype("<f4").view(np.uint8).reshape(-1, _SCALE), packed], axis=1)


def _encode(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, _threads: int, _guessed: bool
) -> U8:
    refuse_nonfinite(x)
    if method not in METHODS:
        raise EncodingError(f"unknown method {method!r}", expected=" or ".join(METHODS))
    bits = 8 * encoding.block_bytes // encoding.block
    columns = np.ascontiguousarray(x.T)
    if method == "nearest":
        scales = plain_scales(columns, bits)
    else:
        squares = np.ones(x.shape[1], np.float32) if weights is None else weights
        scales = searched_scales(columns, squares, bits)
    return stored(np.ascontiguousarray(nearest(columns, scales, bits).T), scales, bits)


def _decode(encoding: Encoding, data: U8, cols: int) -> F32:
    scales = np.ascontiguousarray(data[:, :_SCALE]).view("<f4")
    packed = data[:, _SCALE:]
    if encoding.block_bytes == encoding.block:
        codes = packed.view(np.int8)
    else:
        # The upper half of a byte, shifted down with its sign.
        halves = np.stack([packed << 4, packed], axis=2).view(np.int8) >> 4
        codes = halves.reshape(len(data), cols)
    return codes.astype(np.float32) * scales


def _encoding(bits: int) -> Encoding:
    return Encoding(
        name=name_of(bits),
        summary="ONNX's DequantizeLinear per channel: whole numbers with a scale per row",
        label=name_of(bits),
        block=2,
        block_bytes=2 * bits // 8,
        row_scale=_SCALE,
        encoder=_encode,
        decoder=_decode,
    )


ENCODINGS = tuple(map(_encoding, BITS))
