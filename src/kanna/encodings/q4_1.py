"""Q4_1: 4-bit codes with one scale and one minimum per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q4_1",
    summary="Q4_1: 4-bit codes with one scale and one minimum per 32 values",
    label="Q4_1",
    block=32,
    block_bytes=20,
    ggml_type=3,
    file_type=3,
    search_order=140,
    factors=(0, 2),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
