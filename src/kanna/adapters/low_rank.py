"""The arithmetic of low-rank changes: blocks of rows, in float32, sums in one order everywhere.

Sums go over the rank one by one, without a BLAS: the bytes are the same on every machine.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from kanna import _native
from kanna.adapters.base import Factor, LowRank
from kanna.errors import FormatError
from kanna.model import F32, Tensor

_MOST = 4
"""Changes whose factors are in memory: threads work on row blocks of neighbouring tensors."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Both factors of a change, all of them: left [rows, rank], right [rank, columns]."""

    left: F32
    right: F32


class RecentFactors:
    """Factors of the changes that were asked for last: a file is read once, not for every block."""

    def __init__(self) -> None:
        self._lock, self._kept = Lock(), OrderedDict[int, tuple[LowRank, Factors]]()

    def of(self, change: LowRank) -> Factors:
        """The factors of a change.

        Raises:
            FormatError: A value of them is NaN or infinite.
        """
        with self._lock:
            if (held := self._kept.get(id(change))) is not None:
                self._kept.move_to_end(id(change))
                return held[1]
        factors = Factors(_whole(change.left), _whole(change.right))
        refuse_nonfinite(change.left, factors.left)
        refuse_nonfinite(change.right, factors.right)
        with self._lock:
            self._kept[id(change)] = change, factors  # which keeps the change, and so its number
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return factors


def _whole(factor: Factor) -> F32:
    return np.require(factor.rows(0, factor.shape[0]), np.float32, ["C", "A"])


def added(x: F32, factors: Factors, factor: float, start: int) -> F32:
    """Rows from `start` with their change: x + factor · left · right, a new array.

    Args:
        x: Rows of the base, float32 [rows, columns].
        factors: Of the change.
        factor: Its scale and weight.
        start: Row of the matrix that `x` begins with.
    """
    left, out = factors.left[start : start + len(x)], np.empty(x.shape, np.float32)
    values = np.require(x, np.float32, ["C", "A"])
    _native.add_low_rank(values, left, factors.right, factor, out)
    return out


def stretch(x: F32, magnitude: Tensor, start: int, stop: int) -> None:
    """Give each of rows [start, stop) the length that DoRA trained for it, in place."""
    if len(magnitude.shape) == 1 or magnitude.shape[0] == 1:
        wanted = magnitude.rows(0, 1)[0, start:stop]
    else:
        wanted = magnitude.rows(start, stop)[:, 0]
    refuse_nonfinite(magnitude, wanted)
    length = np.sqrt(np.square(x, dtype=np.float64).sum(axis=1)).astype(np.float32)
    x *= (wanted / np.maximum(length, np.finfo(np.float32).tiny))[:, None]


def refuse_nonfinite(stored: Factor, values: F32) -> None:
    """Raise FormatError where a value is NaN or infinite.

    Args:
        stored: Where the values are from, for the error.
        values: All of them, or some.
    """
    if not np.isfinite(values).all():
        raise FormatError(
            f"the adapter holds NaN or infinite values in {stored.name}",
            expected="finite values",
            todo="train it again, with a lower learning rate or in bfloat16",
        )
