"""F32: IEEE single precision, as it is."""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _encode(_: Encoding, x: F32, *__: object) -> U8:
    return x.view(np.uint8)


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    return data.view(np.float32)


ENCODING = Encoding(
    name="f32",
    summary="F32: IEEE single precision, as it is",
    label="F32",
    block=1,
    block_bytes=4,
    ggml_type=0,
    file_type=0,
    encoder=_encode,
    decoder=_decode,
)
