"""IQ3_XXS: About 3.06 bits: codebook of 256 four-value patterns with packed signs."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq3_xxs",
    summary="IQ3_XXS: About 3.06 bits: codebook of 256 four-value patterns with packed signs",
    label="IQ3_XXS",
    block=256,
    block_bytes=98,
    ggml_type=18,
    file_type=23,
    fallback="iq4_nl",
    search_order=80,
    factors=(0,),
    needs_weights=True,
    encoder=_core.encode,
    decoder=_core.decode,
)
