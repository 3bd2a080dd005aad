"""Q2_0: 2-bit codes for -1, 0, 1, 2 times one scale per 64 values."""

from __future__ import annotations

import numpy as np

from kanna.encodings import _ggml
from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    blocks = data.reshape(-1, 18)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = (blocks[:, 2:, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    with np.errstate(invalid="ignore"):  # a damaged scale may be infinite, and 0 times it is NaN
        return ((codes.reshape(-1, 64).astype(np.float32) - 1) * d).reshape(data.shape[0], cols)


ENCODING = Encoding(
    name="q2_0",
    summary="Q2_0: 2-bit codes for -1, 0, 1, 2 times one scale per 64 values",
    label="Q2_0",
    block=64,
    block_bytes=18,
    ggml_type=42,
    file_type=41,
    fallback="q4_0",
    search_order=60,
    factors=(0,),
    levels=4,
    encoder=_ggml.encode_searched,
    decoder=_decode,
)
