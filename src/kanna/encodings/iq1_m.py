"""IQ1_M: About 1.75 bits: codebook of 2048 ternary eight-value patterns, finer scales."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq1_m",
    summary="IQ1_M: About 1.75 bits: codebook of 2048 ternary eight-value patterns, finer scales",
    label="IQ1_M",
    block=256,
    block_bytes=56,
    ggml_type=29,
    file_type=31,
    fallback="iq4_nl",
    search_order=20,
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
