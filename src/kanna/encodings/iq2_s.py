"""IQ2_S: About 2.56 bits: codebook of 1024 eight-value patterns with free signs."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq2_s",
    summary="IQ2_S: About 2.56 bits: codebook of 1024 eight-value patterns with free signs",
    label="IQ2_S",
    block=256,
    block_bytes=82,
    ggml_type=22,
    file_type=28,
    fallback="iq4_nl",
    search_order=50,
    factors=(0,),
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
