"""IQ4_XS: 4-bit codes into a fixed non-linear table.

6-bit scales per 32 values under one factor per 256.
"""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq4_xs",
    summary="IQ4_XS: 4-bit codes into a fixed non-linear table",
    label="IQ4_XS",
    block=256,
    block_bytes=136,
    ggml_type=23,
    file_type=30,
    fallback="iq4_nl",
    search_order=110,
    factors=(0,),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
