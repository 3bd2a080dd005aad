"""Decoders of the gguf package (numpy), for the encodings our native core does not read."""

from __future__ import annotations

from functools import partial

import numpy as np

from kanna.encodings.base import Decode
from kanna.model import F32, U8

# gguf's numpy code takes several times the output in temporaries: go in slices of this many values.
_SLICE = 1 << 22


def _decode(ggml_type: int, data: U8, cols: int) -> F32:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    out = np.empty((data.shape[0], cols), np.float32)
    step = max(1, _SLICE // max(1, cols))
    # Random or damaged scales are infinite or NaN; that is the caller's business, not a warning's.
    with np.errstate(all="ignore"):
        for i in range(0, data.shape[0], step):
            out[i : i + step] = dequantize(data[i : i + step], GGMLQuantizationType(ggml_type))
    return out


def decoder(ggml_type: int) -> Decode:
    """An `Encoding.decoder` that calls gguf.quants.dequantize."""
    return partial(_decode, ggml_type)
