"""BF16: the upper half of single precision, rounded to nearest even; a NaN stays a (quiet) NaN."""

from __future__ import annotations

import numpy as np

from kanna import _native
from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _encode(_: Encoding, x: F32, *__: object) -> U8:
    out = np.empty(x.shape, np.uint16)
    _native.to_bfloat16(np.require(x, np.float32, ["C", "A"]), out)
    return out.view(np.uint8)


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    bits = data.view(np.uint16).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


ENCODING = Encoding(
    name="bf16",
    summary=(
        "BF16: the upper half of single precision, rounded to nearest even; a NaN stays a "
        "(quiet) NaN"
    ),
    ggml_type=30,
    file_type=32,
    label="BF16",
    block=1,
    block_bytes=2,
    encoder=_encode,
    decoder=_decode,
)
