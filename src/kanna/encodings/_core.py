"""Encoders and decoders of our native core."""

from __future__ import annotations

import numpy as np

from kanna import _native
from kanna.encodings.base import Encoding
from kanna.errors import EncodingError
from kanna.model import F32, U8

# What the magnitude of a value says of its importance (native/include/kanna/kernels.hpp).
UNIFORM, MAGNITUDE, SQUARE, LEVEL_MAGNITUDE, LEVEL_SQUARE = range(5)
METHODS = ("nearest", "search")


def check(x: F32, method: str) -> None:
    """EncodingError for values that no block format has a place for, or a method that is none."""
    count = _native.count_nonfinite(x)
    if count:
        raise EncodingError(
            f"{count} of {x.size} values are NaN or infinite",
            expected="finite values",
            todo="repair the source, or carry this tensor as f32, f16 or bf16",
        )
    if method not in METHODS:
        raise EncodingError(f"unknown method {method!r}", expected=" or ".join(METHODS))


def encode(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, threads: int, guessed: bool
) -> U8:
    """An `Encoding.encoder` of the native core."""
    check(x, method)
    out = np.empty((x.shape[0], encoding.row_bytes(x.shape[1])), np.uint8)
    w = None if weights is None else np.require(weights, np.float32, ["C", "A"])
    # Measured weights count alone. Where there are none, or guesses, the magnitude of a value
    # counts too: that gave the least KL divergence of the five.
    weighting = UNIFORM if w is not None and not guessed else LEVEL_MAGNITUDE
    _native.encode(
        encoding.name,
        x,
        out,
        search=method == "search",
        weights=w,
        weighting=weighting,
        threads=threads,
    )
    return out


def decode(encoding: Encoding, data: U8, cols: int) -> F32:
    """An `Encoding.decoder` of the native core."""
    out = np.empty((data.shape[0], cols), np.float32)
    _native.decode(encoding.name, data, out)
    return out
