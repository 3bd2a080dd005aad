"""Whole numbers with one scale per row: the weights of QDQ graphs, as NPUs multiply them.

value = code * scale, a row being an output channel. Codes of 4 and 8 bits lie around 0, and the
lowest one is not used; the scale lies before the codes of its row, in single precision, or with
`_f16` at the end of the name in half, as OpenVINO has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.encodings._core import check
from kanna.encodings.base import Encoding
from kanna.encodings.grouped import nibbles
from kanna.model import F32, U8

BITS = (4, 8)
TRIED = {8: np.linspace(0.9, 1.0, 3), 4: np.linspace(0.5, 1.0, 26)}
"""Shares of the step that holds the largest value, by bits of a weight."""
_LEAST, _LARGEST = 2.0**-24, 65504.0
"""Of the scales above 0 that half precision has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCodes:
    """The shape of a row.

    Attributes:
        bits: Of a code, 4 or 8.
        half: Whether its scale is in half precision; else single.
    """

    bits: int
    half: bool = False

    @property
    def number(self) -> str:
        """The type of a scale, little-endian, as numpy calls it."""
        return "<f2" if self.half else "<f4"

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale."""
        return 2 if self.half else 4

    def rounded(self, scales: F32) -> F32:
        """Scales f32 [out] as they are stored."""
        if not self.half:
            return scales
        return np.clip(scales, _LEAST, _LARGEST).astype("<f2").astype(np.float32)


def name_of(bits: int, *, half: bool = False) -> str:
    """The name of the encoding of so many bits, its scales in half or single precision."""
    return f"int{bits}_channel" + ("_f16" if half else "")


def parse(name: str) -> RowCodes | None:
    """What the encoding of this name is made of; None for one of another kind."""
    return _KINDS.get(name)


def bits_of(name: str) -> int | None:
    """Bits of a code with scales in single precision, as ONNX has them; None for others."""
    kind = parse(name)
    return None if kind is None or kind.half else kind.bits


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


def stored(codes: NDArray[np.int8], scales: F32, kind: RowCodes) -> U8:
    """Rows of a matrix, its scale before the codes of each, uint8 [rows, row bytes].

    Args:
        codes: int8 [rows, cols].
        scales: f32 [rows].
        kind: Bits of a code, and the type of a scale.
    """
    packed = codes.view(np.uint8)
    if kind.bits == 4:
        packed = nibbles.pack(np.bitwise_and(packed, 15, dtype=np.uint8))
    own = kind.rounded(scales).astype(kind.number).view(np.uint8)
    return np.concatenate([own.reshape(-1, kind.scale_bytes), packed], axis=1)


def _encode(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, _threads: int, _guessed: bool
) -> U8:
    check(x, method)
    kind = _KINDS[encoding.name]
    columns = np.ascontiguousarray(x.T)
    if method == "nearest":
        scales = plain_scales(columns, kind.bits)
    else:
        squares = np.ones(x.shape[1], np.float32) if weights is None else weights
        scales = searched_scales(columns, squares, kind.bits)
    scales = kind.rounded(scales)
    return stored(np.ascontiguousarray(nearest(columns, scales, kind.bits).T), scales, kind)


def _decode(encoding: Encoding, data: U8, cols: int) -> F32:
    kind = _KINDS[encoding.name]
    scales = np.ascontiguousarray(data[:, : kind.scale_bytes]).view(kind.number).astype(np.float32)
    packed = data[:, kind.scale_bytes :]
    if kind.bits == 8:
        codes = packed.view(np.int8)
    else:
        # The upper half of a byte, shifted down with its sign.
        halves = np.stack([packed << 4, packed], axis=2).view(np.int8) >> 4
        codes = halves.reshape(len(data), cols)
    return codes.astype(np.float32) * scales


def _encoding(name: str, kind: RowCodes) -> Encoding:
    return Encoding(
        name=name,
        summary="Whole numbers with a scale per row: ONNX's DequantizeLinear per channel, and "
        "OpenVINO's",
        label=name,
        block=2,
        block_bytes=2 * kind.bits // 8,
        row_scale=kind.scale_bytes,
        encoder=_encode,
        decoder=_decode,
    )


_KINDS = {
    name_of(bits, half=half): RowCodes(bits=bits, half=half)
    for half in (False, True)
    for bits in BITS
}
ENCODINGS = tuple(_encoding(name, kind) for name, kind in _KINDS.items())
