"""Q8_0: 8-bit codes with one scale per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q8_0",
    summary="Q8_0: 8-bit codes with one scale per 32 values",
    label="Q8_0",
    block=32,
    block_bytes=34,
    ggml_type=8,
    file_type=7,
    search_order=200,
    factors=(0,),
    levels=32,
    encoder=_core.encode,
    decoder=_core.decode,
)
