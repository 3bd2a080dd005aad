"""Q5_K: 5-bit codes; 6-bit scales and minima per 32 values under two factors per 256."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q5_k",
    summary=(
        "Q5_K: 5-bit codes; 6-bit scales and minima per 32 values under two half-precision "
        "factors per 256"
    ),
    label="Q5_K",
    block=256,
    block_bytes=176,
    ggml_type=13,
    file_type=16,
    fallback="q5_1",
    search_order=180,
    factors=(0, 2),
    levels=32,
    encoder=_core.encode,
    decoder=_core.decode,
)
