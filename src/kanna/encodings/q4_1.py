"""Q4_1: 4-bit codes with one scale and one minimum per 32 values."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q4_1",
    ggml_type=3,
    ggml_name="Q4_1",
    block=32,
    block_bytes=20,
    encoder=_ggml.encoder(3, 32, 20),
    decoder=_gguf.decoder(3),
)
