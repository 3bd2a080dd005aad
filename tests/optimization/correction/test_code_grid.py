"""Levels of rows whose scales are held, found without knowing how their codes are packed."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import _native, encodings
from kanna.encodings.base import Encoding
from kanna.model import F32, U8
from kanna.optimization.correction.code_grid import SPAN, CodeGrid, rounded

COLS = 512
LEVELS = {"q2_k": 4, "q3_k": 8, "q4_k": 16, "q4_0": 16, "q4_1": 16, "q2_0": 4, "tq2_0": 3}
LEVELS |= {"iq4_nl": 16, "iq4_xs": 16}


def _rows(encoding: Encoding) -> U8:
    x = np.random.default_rng(3).standard_normal((6, COLS)).astype(np.float32)
    return encoding.encode(x, weights=np.ones(COLS, np.float32))


def _values(grid: CodeGrid, codes: U8) -> F32:
    first, width = (np.repeat(part, SPAN, axis=1) for part in (grid.first, grid.width))
    return np.asarray(first + width * grid.levels[codes], np.float32)


@pytest.mark.parametrize("name", LEVELS)
def test_the_grid_gives_the_values_and_every_code_can_be_stored(name: str) -> None:
    encoding = encodings.get(name)
    data = _rows(encoding)
    grid = CodeGrid.of(encoding, data, COLS)
    assert grid is not None and len(grid.levels) == LEVELS[name]
    values = encoding.decode(data, COLS)
    np.testing.assert_allclose(_values(grid, grid.codes), values, atol=1e-5)
    np.testing.assert_allclose(grid.position(values), grid.codes, atol=1e-2)
    assert np.array_equal(rounded(encoding, values, data), data)
    other = np.random.default_rng(4).integers(0, LEVELS[name], values.shape).astype(np.uint8)
    wanted = _values(grid, other)
    np.testing.assert_allclose(
        encoding.decode(rounded(encoding, wanted, data), COLS), wanted, atol=1e-5
    )


def test_uneven_levels_lie_the_other_way_round_under_a_negative_scale() -> None:
    grid = CodeGrid.of(encodings.get("iq4_xs"), _rows(encodings.get("iq4_xs")), COLS)
    assert grid is not None
    assert (grid.width > 0).any() and (grid.width < 0).any()
    gaps = np.diff(grid.levels)
    assert gaps.max() > 2 * gaps.min()


def test_vectors_many_bits_and_zeros_have_none() -> None:
    for name in ("iq2_xxs", "iq3_s", "q6_k", "f16"):
        assert name == "f16" or name in _native.grids()
        encoding = encodings.get(name)
        assert CodeGrid.of(encoding, _rows(encoding), COLS) is None
    zeros = np.zeros((2, COLS), np.float32)
    q2_k = encodings.get("q2_k")
    assert CodeGrid.of(q2_k, q2_k.encode(zeros), COLS) is None
