"""TQ2_0: Ternary values, four to a byte; for models trained so."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="tq2_0",
    summary="TQ2_0: Ternary values, four to a byte; for models trained so",
    label="TQ2_0",
    block=256,
    block_bytes=66,
    ggml_type=35,
    file_type=37,
    fallback="q4_0",
    levels=4,
    encoder=_ggml.encode_searched,
    decoder=_gguf.decode,
)
