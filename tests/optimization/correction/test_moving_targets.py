"""Vectors that learn: what is rounded stays what the file can hold, with the scales it had."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kanna import _native, encodings
from kanna.model import F32
from kanna.optimization.correction.code_grid import rounded
from kanna.optimization.correction.moving_matrix import EncodedMatrix
from kanna.optimization.correction.moving_targets import MovingTargets

torch = pytest.importorskip("torch")

COLS = 512
VECTORS = sorted(name for name, group in _native.grids().items() if group > 1)


def _same(_view: Any, _name: str, rows: F32) -> F32:
    return rows


def _made(name: str) -> tuple[MovingTargets, EncodedMatrix]:
    encoding = encodings.get(name)
    exact = np.random.default_rng(3).standard_normal((6, COLS)).astype(np.float32)
    data = encoding.encode(exact, weights=np.ones(COLS, np.float32))
    weight = torch.from_numpy(encoding.decode(data, COLS))
    matrix = EncodedMatrix(name="m", encoding=encoding, data=data, weight=weight, ordered=_same)
    # Values of another matrix: as after feedback, some vectors are not the nearest.
    other = np.asarray((np.roll(exact, 3, axis=1) + exact) / 2, np.float32)
    moving = MovingTargets.of(matrix, other)
    assert moving is not None
    return moving, matrix


@pytest.mark.parametrize("name", VECTORS)
def test_learning_begins_at_the_rows_that_are_there(name: str) -> None:
    moving, matrix = _made(name)
    assert np.array_equal(moving.rows(), matrix.data)
    still = torch.zeros_like(matrix.weight)
    moving.move(still, 1.0)
    assert np.array_equal(moving.rows(), matrix.data)


@pytest.mark.parametrize("name", VECTORS)
def test_moved_values_are_those_of_rows_with_the_same_scales(name: str) -> None:
    moving, matrix = _made(name)
    signs = np.random.default_rng(4).choice(np.array([-1, 1], np.float32), matrix.weight.shape)
    for _ in range(20):
        moving.move(torch.from_numpy(signs), 1.0)
    values, rows = moving.values().clone(), moving.rows()
    assert not np.array_equal(rows, matrix.data) and rows.shape == matrix.data.shape
    assert torch.equal(matrix.decoded(rows), values) and torch.equal(matrix.weight, values)
    # Rounded to the first values, they are the first rows again: nothing but codes has moved.
    first = matrix.encoding.decode(matrix.data, COLS)
    assert np.array_equal(rounded(matrix.encoding, first, rows), matrix.data)


def test_targets_stay_near() -> None:
    moving, matrix = _made("iq2_s")
    up = -torch.ones_like(matrix.weight)
    moving.move(up, 1e3)
    values = moving.values().clone()
    moving.move(up, 1e3)
    assert torch.equal(moving.values(), values)


def test_single_codes_have_none() -> None:
    encoding = encodings.get("q6_k")
    data = encoding.encode(np.ones((2, COLS), np.float32))
    exact = encoding.decode(data, COLS)
    matrix = EncodedMatrix(
        name="m", encoding=encoding, data=data, weight=torch.from_numpy(exact), ordered=_same
    )
    assert MovingTargets.of(matrix, exact) is None
