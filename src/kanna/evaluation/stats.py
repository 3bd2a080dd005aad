"""Confidence intervals of means over windows, which are nearly independent of each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# From fewer windows an interval says more about Student's t than about the model: perplexity 0.03
# to 15337 from two.
MIN_WINDOWS = 4
# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond the table the normal one is
# close enough.
_T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


def half_width(window_means: NDArray[np.float64]) -> float | None:
    """Half the 95 % interval of the mean of `window_means` [windows]; None below MIN_WINDOWS."""
    count = len(window_means)
    if count < MIN_WINDOWS:
        return None
    t = _T95[count - 2] if count - 2 < len(_T95) else 1.96 + 2.5 / (count - 1)
    return float(t * window_means.std(ddof=1) / math.sqrt(count))


def mean_ci(
    window_means: NDArray[np.float64], *, low: float = -math.inf, high: float = math.inf
) -> tuple[float, tuple[float, float] | None]:
    """Mean and its 95 % interval, cut to what the quantity can be."""
    mean, half = float(window_means.mean()), half_width(window_means)
    return mean, None if half is None else (max(low, mean - half), min(high, mean + half))


def exp_ci(window_means: NDArray[np.float64]) -> tuple[float, tuple[float, float] | None]:
    """The exponential of the mean with its interval: perplexity from mean nll."""
    mean, ci = mean_ci(window_means)
    return math.exp(min(mean, 700)), None if ci is None else (
        math.exp(min(ci[0], 700)),
        math.exp(min(ci[1], 700)),
    )
