"""Q1_0: One sign bit per value and one scale per 128."""

from __future__ import annotations

import numpy as np

from kanna.encodings import _ggml
from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    blocks = data.reshape(-1, 18)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    return np.where(bits, d, -d).reshape(data.shape[0], cols)


ENCODING = Encoding(
    name="q1_0",
    summary="Q1_0: One sign bit per value and one scale per 128",
    label="Q1_0",
    block=128,
    block_bytes=18,
    ggml_type=41,
    file_type=40,
    fallback="q4_0",
    levels=4,
    encoder=_ggml.encode,
    decoder=_decode,
)
