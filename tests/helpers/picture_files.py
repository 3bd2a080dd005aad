"""Small files of pictures, as every decoder takes them."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np


def png(pixels: Any) -> bytes:
    """A PNG of red, green and blue: u8 [height, width, 3]."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + np.ascontiguousarray(row).tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def claiming(width: int, height: int) -> bytes:
    """A whole PNG of one row that claims to be of another size."""
    good = png(np.zeros((1, 1, 3), np.uint8))
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return good[:8] + header + good[8 + len(header) :]


def jpeg(width: int, height: int) -> bytes:
    """A grey JPEG whose sides are multiples of 8: one code says that a block is like the last."""
    blocks = width // 8 * (height // 8)
    bits = ("00" * blocks).ljust(-(-2 * blocks // 8) * 8, "1")
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big")
    segments = (
        (0xDB, b"\0" + b"\1" * 64),
        (0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"),
        (0xC4, b"\x00" + b"\1" + b"\0" * 15 + b"\0"),
        (0xC4, b"\x10" + b"\1" + b"\0" * 15 + b"\0"),
        (0xDA, b"\1\1\0\0\x3f\0"),
    )
    head = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        for marker, data in segments
    )
    return b"\xff\xd8" + head + scan + b"\xff\xd9"
