"""The second moment of a tensor's inputs, made ready for error feedback."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from kanna import _native
from kanna.errors import PlanError
from kanna.model import F32

I32 = NDArray[np.int32]
Visit = tuple[I32, "F32 | None"]

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it, and doubled until the matrix is positive definite."""
_KEPT = 2
"""Prepared moments that stay in memory: tensors that share inputs follow one another."""


class Part:
    """Columns [start, stop) that are correlated with one another.

    Attributes:
        h: F32 [n, n], shrunk toward its diagonal and damped.
    """

    def __init__(self, start: int, h: F32, visits: dict[int, Visit]) -> None:
        self.start, self.stop, self.h = start, start + len(h), h
        self._visits, self._lock = visits, Lock()

    def visit(self, group: int) -> Visit:
        """In which order columns are rounded, `group` neighbours together, the most used first.

        And factors for it.

        Factors: f32 [n, n], see native/include/kanna/factors.hpp; None when they cannot be computed
        in that order.
        """
        with self._lock:
            if group not in self._visits:
                order = order_of(self.h.diagonal(), group)
                self._visits[group] = order, _factors(self.h, order)
            return self._visits[group]


def order_of(diagonal: F32, group: int) -> I32:
    """Columns by falling power of the group of neighbours they belong to."""
    power = diagonal.reshape(-1, group).sum(axis=1, dtype=np.float64)
    groups = np.argsort(-power, kind="stable")
    return (groups[:, None] * group + np.arange(group)).ravel().astype(np.int32)


def _factors(h: F32, order: I32) -> F32 | None:
    found = np.empty_like(h)
    return found if _native.feedback_factors(h, order, found, os.cpu_count() or 1) else None


class Moment:
    """Mean of x xᵀ over the inputs x of one site, as f32 [n, n] blocks along the diagonal.

    Attributes:
        load: Reads the blocks when they are needed.
        shrink: 0 keeps them, 1 leaves the diagonal alone; few tokens say more than is true of all
            text.
    """

    def __init__(self, load: Callable[[], Sequence[F32]], *, shrink: float) -> None:
        self._load, self.shrink = load, shrink

    def parts(self) -> list[Part]:
        """The blocks, ready; those of the last sites are kept."""
        return _prepared(self)

    def prepare(self) -> list[Part]:
        found: list[Part] = []
        start = 0
        for block in self._load():
            found.append(_part(block, start, self.shrink))
            start += len(block)
        return found


_lock = Lock()
_cache: OrderedDict[Moment, list[Part]] = OrderedDict()


def _prepared(moment: Moment) -> list[Part]:
    # Under the lock: other threads that want the same parts have nothing better to do than wait for
    # them.
    with _lock:
        if moment in _cache:
            _cache.move_to_end(moment)
            return _cache[moment]
        while len(_cache) >= _KEPT:
            _cache.popitem(last=False)
        _cache[moment] = moment.prepare()
        return _cache[moment]


def _part(block: F32, start: int, shrink: float) -> Part:
    n = len(block)
    if not np.isfinite(block).all():
        raise PlanError("the statistics hold values that are not numbers", todo="calibrate again")
    h = np.array(block, np.float32)
    diagonal = h.diagonal().copy()
    h *= np.float32(1 - shrink)
    at = np.arange(n)
    level = float(diagonal.mean(dtype=np.float64)) or 1.0
    order = order_of(diagonal, 1)
    damping = DAMPING
    while True:
        h[at, at] = diagonal + np.float32(damping * level)
        factors = _factors(h, order)
        if factors is not None:
            return Part(start, h, {1: (order, factors)})
        damping *= 2
