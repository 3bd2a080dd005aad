"""Q5_0: 5-bit codes with one scale per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q5_0",
    summary="Q5_0: 5-bit codes with one scale per 32 values",
    label="Q5_0",
    block=32,
    block_bytes=22,
    ggml_type=6,
    file_type=8,
    search_order=160,
    factors=(0,),
    levels=32,
    encoder=_core.encode,
    decoder=_core.decode,
)
