"""Write a `tokenizer.model`: SentencePiece's protocol buffer, with what its library needs."""

from __future__ import annotations

import struct
from collections.abc import Iterable

BPE = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _message(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def encode(pieces: Iterable[tuple[str, float, int]]) -> bytes:
    """A BPE model that puts no space before the text, as Gemma's.

    Args:
        pieces: (text, score, type) of every token, in order.
    """
    parts = [
        _message(
            1,
            _message(1, text.encode())
            + b"\x15"
            + struct.pack("<f", score)
            + b"\x18"
            + _varint(kind),
        )
        for text, score, kind in pieces
    ]
    trainer = b"\x18" + _varint(BPE) + b"\x98\x02\x01"  # model_type, byte_fallback
    normalizer = (
        _message(1, b"identity") + b"\x18\x00\x20\x00"
    )  # add_dummy_prefix, remove_extra_whitespaces
    return b"".join([*parts, _message(2, trainer), _message(3, normalizer)])
