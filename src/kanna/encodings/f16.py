"""F16: IEEE half precision, rounded to nearest even. Values beyond 65504 become infinite, as in ggml."""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _encode(x: F32, *_: object) -> U8:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).view(np.uint8)


def _decode(data: U8, cols: int) -> F32:
    return data.view(np.float16).astype(np.float32)


ENCODING = Encoding(
    name="f16", ggml_type=1, ggml_name="F16", block=1, block_bytes=2, encoder=_encode, decoder=_decode
)
