"""Outliers of activations moved into the weights behind them.

What a channel is divided by, its rows are multiplied by. After SmoothQuant (Xiao et al., 2023):
s = max|x|^a / max|w|^(1-a) per channel. Here every group of matrices tries several a on its own
activations and keeps the one with the least error of its 8-bit product, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kanna.model import F32

POWERS = (0.3, 0.5, 0.7, 0.85)
"""Tried beside doing nothing."""


def product_error(
    x: F32, weights: Sequence[F32], bounds: tuple[float, float] | None = None
) -> float:
    """Squared error of x·w in 8 bits over the product's own square, mean of rows and weights.

    Every token counts alike: a sum would be that of the few whose activations are hundreds of times
    larger.

    Args:
        x: f32 [rows, in], one unsigned 8-bit scale and zero point for all of it.
        weights: Each f32 [in, out], signed 8 bits with a scale per column.
        bounds: Lowest and highest value that `x` is quantized for; None: its own range.
    """
    low, high = bounds or (float(x.min()), float(x.max()))
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)
    seen = ((np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    errors: list[float] = []
    for w in weights:
        step = np.maximum(np.abs(w).max(axis=0), 1e-12) / 127
        exact = x @ w
        off = np.square(seen @ (np.round(w / step) * step) - exact).sum(axis=1)
        errors.append(float(np.mean(off / np.maximum(np.square(exact).sum(axis=1), 1e-30))))
    return float(np.mean(errors))


def best(x: F32, weights: Sequence[F32]) -> tuple[F32 | None, float, float]:
    """The divisor of each channel, f32 [in], or None when none helps; the error before and after.

    Args:
        x: f32 [rows, in], the activations the divisors are judged on.
        weights: What they are multiplied by, each f32 [in, out].
    """
    before = product_error(x, weights)
    divisor: F32 | None = None
    least = before
    reach = np.abs(x).max(axis=0)
    height = np.max([np.abs(w).max(axis=1) for w in weights], axis=0)
    for power in POWERS:
        s = np.maximum(reach, 1e-5) ** power / np.maximum(height, 1e-5) ** (1 - power)
        # Powers of two change no digit of a weight; a common factor changes nothing at all.
        s = np.exp2(np.round(np.log2(s / np.exp(np.log(s).mean())))).astype(np.float32)
        error = product_error(x / s, [w * s[:, None] for w in weights])
        if error < least:
            divisor, least = s, error
    return divisor, before, least
