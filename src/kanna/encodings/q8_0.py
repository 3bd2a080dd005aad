"""Q8_0: 8-bit codes with one scale per 32 values."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="q8_0",
    ggml_type=8,
    ggml_name="Q8_0",
    block=32,
    block_bytes=34,
    encoder=_ggml.encoder(8, 32, 34),
    decoder=_gguf.decoder(8),
)
