"""TQ2_0: Ternary values, four to a byte; for models trained so."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="tq2_0",
    ggml_type=35,
    ggml_name="TQ2_0",
    block=256,
    block_bytes=66,
    encoder=_ggml.searched("tq2_0", 35, 256, 66),
    decoder=_gguf.decoder(35),
)
