"""Q2_K: 2-bit codes; 4-bit scales and minima per 16 values under two factors per 256."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q2_k",
    summary=(
        "Q2_K: 2-bit codes; 4-bit scales and minima per 16 values under two half-precision "
        "factors per 256"
    ),
    label="Q2_K",
    block=256,
    block_bytes=84,
    ggml_type=10,
    file_type=10,
    fallback="q4_0",
    search_order=70,
    factors=(80, 82),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
