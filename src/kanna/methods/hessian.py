"""The second moment of a tensor's inputs, and the factors that error feedback takes from it.

The second moment is the Hessian of the squared output error in the weights of a row (GPTQ,
arXiv:2210.17323). It is damped until it is positive definite, as there.
"""

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
Factors = tuple[I32, "F32 | None"]
Factorize = Callable[[F32, I32], "F32 | None"]
"""Factors of a second moment for columns in an order, or None where it is not positive definite."""

DAMPING = 0.01
"""Share of the diagonal's mean that is added to it; doubled until there are factors."""
_CACHE_SIZE, _CACHE_VALUES = 2, 1 << 26
"""Second moments whose blocks stay in memory: tensors that share inputs follow one another.

More of them stay while their values are few, since threads are at several experts at once.
"""


class HessianBlock:
    """The damped Hessian of the columns [start, stop), which are correlated with one another.

    Attributes:
        start: First column.
        stop: Column after the last.
        hessian: float32 [n, n], shrunk toward its diagonal and damped.
    """

    def __init__(
        self, start: int, hessian: F32, factors: dict[int, Factors], factorize: Factorize
    ) -> None:
        self.start, self.stop, self.hessian = start, start + len(hessian), hessian
        self._factors, self._factorize, self._lock = factors, factorize, Lock()

    def factors_for(self, group: int) -> Factors:
        """Order in which columns are rounded, `group` neighbours together, and factors for it.

        The most used columns come first.

        Returns:
            The order, int32 [n], and the factors, float32 [n, n], as described in
            native/include/kanna/factors.hpp, or None where they cannot be computed in that order.
        """
        with self._lock:
            if group not in self._factors:
                order = order_of(self.hessian.diagonal(), group)
                self._factors[group] = order, self._factorize(self.hessian, order)
            return self._factors[group]


def order_of(diagonal: F32, group: int) -> I32:
    """Columns by falling power of the group of neighbours they belong to."""
    power = diagonal.reshape(-1, group).sum(axis=1, dtype=np.float64)
    groups = np.argsort(-power, kind="stable")
    return (groups[:, None] * group + np.arange(group)).ravel().astype(np.int32)


def factorize(hessian: F32, order: I32) -> F32 | None:
    """The factors, by native code on all cores."""
    factors = np.empty_like(hessian)
    threads = os.cpu_count() or 1
    return factors if _native.feedback_factors(hessian, order, factors, threads) else None


class SecondMoment:
    """Mean of x xᵀ over the inputs x of one site, as float32 [n, n] blocks along the diagonal.

    Attributes:
        shrink: Factor from 0 (the blocks as measured) to 1 (their diagonal alone): correlations
            measured on few tokens hold less well for other text.
        device: Where error feedback under it runs; see kanna.methods.device.pick.
    """

    def __init__(
        self, load: Callable[[], Sequence[F32]], *, shrink: float, device: str = "cpu"
    ) -> None:
        """Take `load`, which reads the blocks when they are needed."""
        self._load, self.shrink, self.device = load, shrink, device

    def blocks(self, factorize: Factorize = factorize) -> list[HessianBlock]:
        """The damped blocks; those of the last sites stay in memory.

        Args:
            factorize: Computes factors where they are not in memory.
        """
        # Under the lock: other threads that want the same blocks have nothing better to do than
        # wait for them.
        with _lock:
            if self in _cache:
                _cache.move_to_end(self)
                return _cache[self]
            while len(_cache) >= _CACHE_SIZE and _values() > _CACHE_VALUES:
                _cache.popitem(last=False)
            _cache[self] = self._damped_blocks(factorize)
            return _cache[self]

    def of(self, expert: int) -> SecondMoment:
        """That of the inputs of one expert, where a tensor is a stack; else the same."""
        return self

    @property
    def experts(self) -> int:
        """How many second moments a stack of matrices has."""
        return 1

    def measured(self) -> Sequence[F32]:
        """The blocks as they were measured, neither shrunk nor damped.

        Raises:
            PlanError: They hold values that are not numbers.
        """
        blocks = self._load()
        if not all(np.isfinite(block).all() for block in blocks):
            raise PlanError(
                "the statistics hold values that are not numbers", todo="calibrate again"
            )
        return blocks

    def _damped_blocks(self, factorize: Factorize) -> list[HessianBlock]:
        blocks: list[HessianBlock] = []
        start = 0
        for block in self.measured():
            blocks.append(_damped(block, start, self.shrink, factorize))
            start += len(block)
        return blocks


class ExpertMoments(SecondMoment):
    """Second moments of the inputs of a stack of matrices: of all together, and of each."""

    def __init__(
        self,
        load: Callable[[], Sequence[F32]],
        each: Sequence[SecondMoment],
        *,
        shrink: float,
        device: str = "cpu",
    ) -> None:
        """Take `load` for the blocks of all together, and the moments of each."""
        super().__init__(load, shrink=shrink, device=device)
        self._each = each

    def of(self, expert: int) -> SecondMoment:
        """That of one expert."""
        return self._each[expert]

    @property
    def experts(self) -> int:
        """How many there are."""
        return len(self._each)


_lock = Lock()
_cache: OrderedDict[SecondMoment, list[HessianBlock]] = OrderedDict()


def _values() -> int:
    """Values of the Hessians in memory."""
    return sum(block.hessian.size for blocks in _cache.values() for block in blocks)


def _damped(block: F32, start: int, shrink: float, factorize: Factorize) -> HessianBlock:
    n = len(block)
    hessian = np.array(block, np.float32)
    diagonal = hessian.diagonal().copy()
    hessian *= np.float32(1 - shrink)
    index = np.arange(n)
    level = float(diagonal.mean(dtype=np.float64)) or 1.0
    order = order_of(diagonal, 1)
    damping = DAMPING
    while True:
        hessian[index, index] = diagonal + np.float32(damping * level)
        factors = factorize(hessian, order)
        if factors is not None:
            return HessianBlock(start, hessian, {1: (order, factors)}, factorize)
        damping *= 2
