"""IQ2_S: About 2.56 bits: codebook of 1024 eight-value patterns with free signs."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="iq2_s",
    label="IQ2_S",
    block=256,
    block_bytes=82,
    ggml_type=22,
    needs_weights=True,
    encoder=_ggml.encode,
    decoder=_gguf.decode,
)
