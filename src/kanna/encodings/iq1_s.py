"""IQ1_S: About 1.56 bits: codebook of 2048 ternary eight-value patterns."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq1_s",
    summary="IQ1_S: About 1.56 bits: codebook of 2048 ternary eight-value patterns",
    label="IQ1_S",
    block=256,
    block_bytes=50,
    ggml_type=19,
    file_type=24,
    fallback="iq4_nl",
    search_order=10,
    factors=(0,),
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
