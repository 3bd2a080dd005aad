"""Q5_1: 5-bit codes with one scale and one minimum per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q5_1",
    summary="Q5_1: 5-bit codes with one scale and one minimum per 32 values",
    label="Q5_1",
    block=32,
    block_bytes=24,
    ggml_type=7,
    file_type=9,
    search_order=170,
    factors=(0, 2),
    levels=32,
    encoder=_core.encode,
    decoder=_core.decode,
)
