"""The second moment of a tensor's inputs, made ready for error feedback."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from kanna import _native
from kanna.errors import PlanError
from kanna.model import F32

I32 = NDArray[np.int32]

DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it, and doubled until the matrix is positive definite."""
_KEPT = 2
"""Prepared moments that stay in memory: tensors that share inputs follow one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Columns [start, stop) that are correlated with one another.

    h:       f32 [n, n], shrunk toward its diagonal and damped
    factors: f32 [n, n], see native/include/kanna/factors.hpp
    order:   columns of the part in the order they are visited: the most used first
    """

    start: int
    stop: int
    h: F32
    factors: F32
    order: I32


class Moment:
    """Mean of x xᵀ over the inputs x of one site, as f32 [n, n] blocks along the diagonal.

    load:   reads the blocks when they are needed
    shrink: 0 keeps them, 1 leaves the diagonal alone; few tokens say more than is true of all text
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
    # Under the lock: other threads that want the same parts have nothing better to do than wait for them.
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
    order = np.argsort(-diagonal, kind="stable").astype(np.int32)
    factors = np.empty((n, n), np.float32)
    damping = DAMPING
    while True:
        h[at, at] = diagonal + np.float32(damping * level)
        if _native.feedback_factors(h, order, factors, os.cpu_count() or 1):
            return Part(start=start, stop=start + n, h=h, factors=factors, order=order)
        damping *= 2
