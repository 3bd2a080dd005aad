"""IQ2_XS: About 2.31 bits: codebook of 512 eight-value patterns with packed signs."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq2_xs",
    summary="IQ2_XS: About 2.31 bits: codebook of 512 eight-value patterns with packed signs",
    label="IQ2_XS",
    block=256,
    block_bytes=74,
    ggml_type=17,
    file_type=20,
    fallback="iq4_nl",
    search_order=40,
    factors=(0,),
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
