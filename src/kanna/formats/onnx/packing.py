"""A matrix of an nbits encoding as the three arrays of a MatMulNBits node.

codes  uint8 [rows, groups, group * bits / 8]
scales float16 or float32 [rows, groups]
zeros  uint8 [rows, ⌈groups * bits / 8⌉], packed as codes are; none where the zero is the middle
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kanna.encodings.affine_codes import unpack
from kanna.encodings.grouped.nbits import NBits
from kanna.model import U8


class Planes(NamedTuple):
    """The bytes of each array, uint8 [rows, bytes of a row]."""

    codes: U8
    scales: U8
    zeros: U8 | None


def split(kind: NBits, data: U8) -> Planes:
    """The arrays of rows that `kind`'s encoding holds as uint8 [rows, groups * block bytes]."""
    rows = len(data)
    blocks = data.reshape(rows, -1, kind.block_bytes)
    codes, scale = kind.code_bytes, kind.code_bytes + kind.scale_bytes
    zeros = pack(blocks[:, :, scale], kind.bits) if kind.zero else None
    return Planes(
        np.ascontiguousarray(blocks[:, :, :codes]).reshape(rows, -1),
        np.ascontiguousarray(blocks[:, :, codes:scale]).reshape(rows, -1),
        zeros,
    )


def join(kind: NBits, planes: Planes) -> U8:
    """Rows as `kind`'s encoding holds them, uint8 [rows, groups * block bytes].

    The inverse of `split`.
    """
    rows = len(planes.codes)
    parts = [
        planes.codes.reshape(rows, -1, kind.code_bytes),
        planes.scales.reshape(rows, -1, kind.scale_bytes),
    ]
    if planes.zeros is not None:
        parts.append(unpack(planes.zeros, kind.bits)[:, : parts[0].shape[1], None])
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def pack(codes: U8, bits: int) -> U8:
    """Codes uint8 [rows, n] as uint8 [rows, ⌈n * bits / 8⌉], lowest bits first.

    Zeros fill the last byte.
    """
    per = 8 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per))).reshape(len(codes), -1, per)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(padded << shifts, axis=2)
