"""NVFP4: 4-bit floats (E2M1) under one 8-bit float scale per 16 values."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="nvfp4",
    summary="NVFP4: 4-bit floats (E2M1) under one 8-bit float scale per 16 values",
    label="NVFP4",
    block=64,
    block_bytes=36,
    ggml_type=40,
    file_type=39,
    fallback="iq4_nl",
    levels=32,
    encoder=_ggml.encode,
    decoder=_gguf.decode,
)
