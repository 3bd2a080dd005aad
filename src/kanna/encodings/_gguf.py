"""Decoders of the gguf package (numpy), for the encodings our native core does not read."""

from __future__ import annotations

import numpy as np

from kanna.encodings.base import Encoding
from kanna.model import F32, U8

# gguf's numpy code takes several times the output in temporaries: go in slices of this many values.
_SLICE = 1 << 22


def decode(encoding: Encoding, data: U8, cols: int) -> F32:
    """An `Encoding.decoder` that calls gguf.quants.dequantize."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    out = np.empty((data.shape[0], cols), np.float32)
    step = max(1, _SLICE // max(1, cols))
    # Random or damaged scales are infinite or NaN; that is the caller's business, not a warning's.
    with np.errstate(all="ignore"):
        for i in range(0, data.shape[0], step):
            out[i : i + step] = dequantize(
                data[i : i + step], GGMLQuantizationType(encoding.ggml_type)
            )
    return out
