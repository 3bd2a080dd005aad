"""MXFP4: 4-bit floats (E2M1) under one power of two per 32 values."""

from __future__ import annotations

from kanna.encodings import _ggml, _gguf
from kanna.encodings.base import Encoding

ENCODING = Encoding(
    name="mxfp4",
    summary="MXFP4: 4-bit floats (E2M1) under one power of two per 32 values",
    label="MXFP4",
    block=32,
    block_bytes=17,
    ggml_type=39,
    file_type=38,
    levels=16,
    encoder=_ggml.encode,
    decoder=_gguf.decode,
)
