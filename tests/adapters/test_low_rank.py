"""The kernel of merging beside numpy, value by value, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import _native
from kanna.adapters.base import LowRank
from kanna.adapters.low_rank import Factors, RecentFactors, added
from kanna.errors import FormatError
from kanna.formats.stored import stored
from kanna.model import F32


def _by_numpy(x: F32, left: F32, right: F32, factor: float) -> F32:
    """Sums in the order of the rank, each product and sum rounded to float32."""
    total = np.zeros_like(x)
    for k in range(right.shape[0]):
        total += left[:, k, None] * right[k]
    return x + total * np.float32(factor)


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(19, 160, 16), (8, 131, 3), (1, 7, 1), (40, 64, 64), (3, 0, 2)]
)
def test_the_bits_are_those_of_numpy_everywhere(rows: int, columns: int, rank: int) -> None:
    random = np.random.default_rng(rows)
    before, start = random.standard_normal((rows, columns), np.float32), 5
    factors = Factors(
        random.standard_normal((rows + start, rank), np.float32),
        random.standard_normal((rank, columns), np.float32),
    )
    wanted = _by_numpy(before, factors.left[start:], factors.right, 1.7)
    used = _native.simd()
    try:
        for isa in _native.simd_available():
            assert _native.set_simd(isa)
            assert added(before, factors, 1.7, start).tobytes() == wanted.tobytes(), isa
    finally:
        _native.set_simd(used)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, left = np.zeros((4, 8), np.float32), np.zeros((4, 2), np.float32)
    for right in (np.zeros((3, 8), np.float32), np.zeros((2, 7), np.float32)):
        with pytest.raises(ValueError, match="shapes do not fit"):
            _native.add_low_rank(x, left, right, 1.0, np.empty_like(x))


def _change(value: float) -> LowRank:
    left, right = np.full((6, 2), value, np.float32), np.ones((2, 8), np.float32)
    parts = {"left": left, "right": right}
    tensors = {
        name: stored(name, array.shape, "f32", array.view(np.uint8).reshape(-1))
        for name, array in parts.items()
    }
    return LowRank(left=tensors["left"], right=tensors["right"], scale=1.0)


def test_factors_are_read_once_and_only_a_few_are_held() -> None:
    recent, changes = RecentFactors(), [_change(float(n)) for n in range(9)]
    first = recent.of(changes[0])
    assert recent.of(changes[0]) is first and first.left[0, 0] == 0.0
    for n, change in enumerate(changes):
        assert recent.of(change).left[0, 0] == n
    assert recent.of(changes[0]) is not first
    with pytest.raises(FormatError, match="NaN or infinite"):
        recent.of(_change(float("nan")))
