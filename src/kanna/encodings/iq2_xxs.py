"""IQ2_XXS: About 2.06 bits: codebook of 256 eight-value patterns with packed signs."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq2_xxs",
    summary="IQ2_XXS: About 2.06 bits: codebook of 256 eight-value patterns with packed signs",
    label="IQ2_XXS",
    block=256,
    block_bytes=66,
    ggml_type=16,
    file_type=19,
    fallback="iq4_nl",
    search_order=30,
    factors=(0,),
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
