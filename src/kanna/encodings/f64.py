"""F64: IEEE double precision, carried as it is or read rounded to single precision."""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8


def _decode(_: Encoding, data: U8, cols: int) -> F32:
    with np.errstate(over="ignore"):
        return data.view(np.float64).astype(np.float32)


ENCODING = Encoding(
    name="f64",
    summary="F64: IEEE double precision, carried as it is or read rounded to single precision",
    ggml_type=28,
    label="F64",
    block=1,
    block_bytes=8,
    decoder=_decode,
)
