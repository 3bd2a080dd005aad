"""How much text is read: so many windows, or as many as make the interval narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanna.errors import UsageError
from kanna.evaluation.divergence import F64
from kanna.evaluation.stats import half_width

DEFAULT = 0.05
"""Half of the 95 % interval of the mean KL divergence, as a fraction of the mean."""
_LEAST = 8
"""Windows before an interval is believed: fewer may agree by chance."""
_NEGLIGIBLE = 2e-3
"""A divergence below this, in nats, is the runtime's own rounding: no need to know it better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much text an evaluation reads.

    Attributes:
        windows: Windows at most; None: all of a given text, the first of the default one.
        context: Tokens of a window, of which the second half is scored.
        precision: Stop where half the interval is within this fraction of the mean KL divergence;
            None: read all windows.
        thorough: Whether all of the default text may be read, not only its first windows.
    """

    windows: int | None = None
    context: int = 512
    precision: float | None = None
    thorough: bool = False


def choose(precision: float | str | None, windows: int | None, context: int = 512) -> Extent:
    """What is read: to the precision asked for, else to DEFAULT unless windows are fixed.

    Raises UsageError for what is no share between 0 and 100 %, and for both at once.
    """
    if precision is None:
        default = DEFAULT if windows is None else None
        return Extent(windows=windows, context=context, precision=default)
    value = parse(precision)
    if windows is not None:
        raise UsageError(
            "a precision and a number of windows contradict each other",
            expected="--precision, which reads as much text as it takes, or --windows",
        )
    return Extent(context=context, precision=value, thorough=True)


def parse(precision: float | str) -> float:
    """A share such as `5%`, `0.05` or 0.05, as a fraction of 1; raises UsageError."""
    text = str(precision).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise UsageError(
            f"{text!r} is no precision", expected="a share between 0 and 100 %, such as 5% or 0.05"
        )
    return value


def is_reached(window_means: Sequence[Sequence[float]], precision: float | None) -> bool:
    """Whether the mean KL divergence of every file is known that well.

    Args:
        window_means: Mean KL divergence of each window, for each file.
        precision: As of Extent.
    """
    return precision is not None and all(
        len(means) >= _LEAST and _is_narrow(np.array(means), precision) for means in window_means
    )


def _is_narrow(means: F64, precision: float) -> bool:
    half = half_width(means)
    return half is not None and half <= precision * max(float(means.mean()), _NEGLIGIBLE)
