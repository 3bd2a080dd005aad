"""IQ3_S: About 3.44 bits: codebook of 512 four-value patterns with free signs."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq3_s",
    summary="IQ3_S: About 3.44 bits: codebook of 512 four-value patterns with free signs",
    label="IQ3_S",
    block=256,
    block_bytes=110,
    ggml_type=21,
    file_type=26,
    fallback="iq4_nl",
    search_order=90,
    factors=(0,),
    encoder=_core.encode,
    decoder=_core.decode,
)
