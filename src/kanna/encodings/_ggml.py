"""ggml's own encoders, in the llama.cpp that is used here."""

from __future__ import annotations

from threading import Lock

import numpy as np

from kanna.encodings import _core
from kanna.encodings._core import check
from kanna.encodings.base import Encoding
from kanna.libllama import quantizers
from kanna.model import F32, U8

_tables = Lock()


def quantize(encoding: Encoding, x: F32, weights: F32 | None) -> U8:
    """ggml_quantize_chunk of float32 [rows, cols] -> uint8 [rows, row bytes]."""
    lib, number = quantizers(), encoding.ggml_type
    with _tables:
        lib.ggml_quantize_init(number)
    out = np.zeros((x.shape[0], encoding.row_bytes(x.shape[1])), np.uint8)
    w = None if weights is None else np.ascontiguousarray(weights, np.float32)
    importance = None if w is None else w.ctypes.data
    start, (rows, cols) = 0, x.shape
    arguments = (number, x.ctypes.data, out.ctypes.data, start, rows, cols, importance)
    lib.ggml_quantize_chunk(*arguments)
    return out


def encode(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, threads: int, guessed: bool
) -> U8:
    """An `Encoding.encoder` that calls ggml. ggml knows one method only, so both names mean it."""
    check(x, method)
    if encoding.needs_weights and weights is None:
        # ggml aborts the process without weights here: the mean square of a column is the best
        # stand-in.
        weights = np.mean(np.square(x), axis=0, dtype=np.float64).astype(np.float32) + np.float32(
            1e-12
        )
    if weights is not None and encoding.needs_weights:
        # A block of unused columns would become zeros there, and other text may use them.
        mean = np.mean(weights, dtype=np.float64)
        weights = (
            np.maximum(weights, np.float32(1e-6 * mean)) if mean > 0 else np.ones_like(weights)
        )
    return quantize(encoding, x, weights)


def encode_searched(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, threads: int, guessed: bool
) -> U8:
    """An `Encoding.encoder` that calls ggml, which takes the largest magnitude, for `nearest`.

    `search` is our own.
    """
    encoder = _core.encode if method == "search" else encode
    return encoder(encoding, x, method, weights, threads, guessed)
