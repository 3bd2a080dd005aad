"""Q6_K: 6-bit signed codes; 8-bit scales per 16 values under one half-precision factor per 256."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q6_k",
    summary=(
        "Q6_K: 6-bit signed codes; 8-bit scales per 16 values under one half-precision factor "
        "per 256"
    ),
    label="Q6_K",
    block=256,
    block_bytes=210,
    ggml_type=14,
    file_type=18,
    fallback="q8_0",
    search_order=190,
    factors=(208,),
    levels=32,
    encoder=_core.encode,
    decoder=_core.decode,
)
