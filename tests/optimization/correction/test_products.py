"""Rows corrected for the inputs that quantized layers give: never worse, exact in decoding."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from kanna import encodings
from kanna.model import F32
from kanna.optimization.correction.products import InputProducts, corrected

ROWS, COLS, TOKENS = 19, 256, 600


def products(seed: int, *, added: bool) -> tuple[F32, InputProducts, F32, F32, F32 | None]:
    """Rows, sums, and what they are of: inputs, and the same behind a quantized layer."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((ROWS, COLS)).astype(np.float32)
    mixed = rng.standard_normal((TOKENS, 40)) @ rng.standard_normal((40, COLS))
    exact = (mixed + 0.3 * rng.standard_normal((TOKENS, COLS))).astype(np.float32)
    given = (exact + 0.7 * rng.standard_normal((TOKENS, COLS)) - 0.1 * exact).astype(np.float32)
    off = rng.standard_normal((TOKENS, ROWS)).astype(np.float32) if added else None
    sums = InputProducts()
    for part in np.split(np.arange(TOKENS), 3):
        sums.add(exact[part], given[part], None if off is None else off[part])
    return weight, sums, exact, given, off


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_0", "iq2_xxs", "iq1_m", "iq3_s"])
@pytest.mark.parametrize("added", [False, True])
def test_no_row_has_more_error_and_most_have_less(name: str, added: bool) -> None:
    weight, sums, exact, given, off = products(1, added=added)
    encoding = encodings.get(name)
    before = encoding.encode(weight, weights=np.ones(COLS, np.float32))
    residual = None if sums.residual is None else sums.residual
    data, changed = corrected(
        encoding, weight, before, sums, residual=residual, shrink=0.1, threads=1
    )
    wanted = exact @ weight.T + (0 if off is None else off)
    # As a runtime would: the decoded rows times the inputs, not the sums that chose them.
    was, now = (
        np.square(given @ encoding.decode(rows, COLS).T - wanted).mean(axis=0, dtype=np.float64)
        for rows in (before, data)
    )
    assert (now <= was * (1 + 1e-5)).all()
    assert changed == (data != before).any(axis=1).sum() > ROWS // 2
    assert now.sum() < 0.97 * was.sum()
    again, _ = corrected(encoding, weight, before, sums, residual=residual, shrink=0.1, threads=3)
    assert np.array_equal(again, data)


def test_the_error_is_that_of_the_products_but_for_a_constant() -> None:
    weight, sums, exact, given, off = products(2, added=True)
    assert off is not None
    wanted = sums.wanted(weight, sums.residual)
    rng = np.random.default_rng(3)
    one, other = (
        weight + rng.standard_normal(weight.shape).astype(np.float32) * s for s in (0.1, 0.3)
    )
    goal = exact @ weight.T + off
    direct = [np.square(given @ q.T - goal).mean(axis=0, dtype=np.float64) for q in (one, other)]
    difference = sums.errors(one, wanted) - sums.errors(other, wanted)
    np.testing.assert_allclose(difference, direct[0] - direct[1], rtol=2e-3)


def test_equal_inputs_ask_for_no_correction() -> None:
    weight, _, exact, _, _ = products(4, added=False)
    sums = InputProducts()
    sums.add(exact, exact, None)
    target = sums.target(weight, sums.wanted(weight, None), 0.1)
    np.testing.assert_allclose(target, weight, atol=1e-5)


def test_the_rows_stay_the_same_bytes() -> None:
    # Whole numbers: their sums and products are exact with any BLAS.
    rng = np.random.default_rng(5)
    weight = rng.integers(-8, 9, (ROWS, COLS)).astype(np.float32) / 8
    sums = InputProducts()
    exact = rng.integers(-4, 5, (TOKENS, COLS)).astype(np.float32)
    sums.add(exact, exact, None)
    encoding = encodings.get("q3_k")
    before = encoding.encode(weight)
    data, _ = corrected(encoding, weight, before, sums, residual=None, shrink=0.0, threads=1)
    assert hashlib.sha256(data.tobytes()).hexdigest()[:16] == "b30d0c44a46d2320"
