"""Q4_0: 4-bit codes with one scale per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q4_0",
    summary="Q4_0: 4-bit codes with one scale per 32 values",
    label="Q4_0",
    block=32,
    block_bytes=18,
    ggml_type=2,
    file_type=2,
    search_order=130,
    factors=(0,),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
