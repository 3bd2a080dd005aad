"""Two codes of 4 bits in a byte, neighbours of the last axis, the first of them low."""

from __future__ import annotations

import numpy as np

from kanna.model import U8


def pack(codes: U8) -> U8:
    """Codes 0 to 15, uint8 [..., n], as uint8 [..., n / 2]."""
    return np.bitwise_or(codes[..., 0::2], codes[..., 1::2] << 4, dtype=np.uint8)


def unpack(packed: U8) -> U8:
    """The codes of bytes uint8 [..., n / 2], as uint8 [..., n]."""
    codes: U8 = np.stack([packed & 15, packed >> 4], axis=-1, dtype=np.uint8)
    return codes.reshape(*packed.shape[:-1], -1)
