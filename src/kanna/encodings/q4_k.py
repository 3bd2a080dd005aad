"""Q4_K: 4-bit codes; 6-bit scales and minima per 32 values under two factors per 256."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q4_k",
    summary=(
        "Q4_K: 4-bit codes; 6-bit scales and minima per 32 values under two half-precision "
        "factors per 256"
    ),
    label="Q4_K",
    block=256,
    block_bytes=144,
    ggml_type=12,
    file_type=14,
    fallback="q5_0",
    search_order=150,
    factors=(0, 2),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
