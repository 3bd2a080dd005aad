"""IQ4_NL: 4-bit codes into a fixed non-linear table, one scale per 32 values."""

from __future__ import annotations

from kanna.encodings import _core
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq4_nl",
    summary="IQ4_NL: 4-bit codes into a fixed non-linear table, one scale per 32 values",
    label="IQ4_NL",
    block=32,
    block_bytes=18,
    ggml_type=20,
    file_type=25,
    search_order=120,
    factors=(0,),
    levels=16,
    encoder=_core.encode,
    decoder=_core.decode,
)
