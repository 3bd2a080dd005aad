"""Q3_K: 3-bit signed codes; 6-bit scales per 16 values under one half-precision factor per 256."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q3_k",
    summary=(
        "Q3_K: 3-bit signed codes; 6-bit scales per 16 values under one half-precision factor "
        "per 256"
    ),
    label="Q3_K",
    block=256,
    block_bytes=110,
    ggml_type=11,
    file_type=11,
    fallback="q4_0",
    search_order=100,
    factors=(108,),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
