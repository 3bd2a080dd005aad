"""Codes with a scale per row: what is stored, and how close it is."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import encodings, methods
from kanna.encodings.grouped import channel
from kanna.methods.base import Inputs
from kanna.methods.hessian import SecondMoment
from kanna.model import F32


@pytest.mark.parametrize("bits", channel.BITS)
def test_rows_hold_a_scale_and_whole_numbers_around_zero(bits: int) -> None:
    encoding = encodings.get(channel.name_of(bits))
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    data = encoding.encode(x, method="nearest")
    assert data.shape == (5, 4 + 64 * bits // 8) == (5, encoding.row_bytes(64))
    scales = data[:, :4].copy().view("<f4")
    codes = encoding.decode(data, 64) / scales
    most = 2 ** (bits - 1) - 1
    assert np.allclose(codes, np.rint(codes), atol=1e-3) and np.abs(codes).max() == most
    assert np.abs(encoding.decode(data, 64) - x).max() <= 0.5001 * scales.max()


@pytest.mark.parametrize("bits", channel.BITS)
def test_each_method_is_closer_than_the_one_before(bits: int) -> None:
    """On what is multiplied: also where columns hang together in several blocks."""
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((512, 64)) @ (rng.standard_normal((64, 64)) * rng.random(64) ** 3)
    second: F32 = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    x = rng.standard_normal((24, 64)).astype(np.float32)
    encoding = encodings.get(channel.name_of(bits))
    whole: list[F32] = [second]
    blocks: list[F32] = [second[:32, :32], second[32:, 32:]]
    known = Inputs(
        weights=np.ascontiguousarray(second.diagonal()),
        second_moment=SecondMoment(lambda: whole, shrink=0.0),
    )
    split = Inputs(weights=known.weights, second_moment=SecondMoment(lambda: blocks, shrink=0.0))

    def error(method: str, given: Inputs) -> float:
        decoded = encoding.decode(methods.get(method).encode(encoding, x, given), 64)
        return float(np.square(inputs @ (decoded - x).T).sum())

    errors = [error(m, given) for m, given in (("nearest", known), ("search", known))]
    assert error("gptq", known) < error("gptq", split) < errors[1] <= errors[0]


@pytest.mark.parametrize("bits", channel.BITS)
@pytest.mark.parametrize("method", ["nearest", "search"])
def test_scales_in_half_precision_are_those_that_values_are_read_with(
    bits: int, method: str
) -> None:
    encoding = encodings.get(channel.name_of(bits, half=True))
    x = np.random.default_rng(2).standard_normal((6, 64)).astype(np.float32)
    x[0], x[1] = 0, 1e-7
    data = encoding.encode(x, method=method)
    assert data.shape == (6, 2 + 64 * bits // 8)
    scales = data[:, :2].copy().view("<f2").astype(np.float32)
    values = encoding.decode(data, 64)
    assert np.isfinite(values).all() and not values[0].any() and (scales > 0).all()
    codes = values / scales
    assert np.allclose(codes, np.rint(codes), atol=1e-3)
    assert np.abs(values - x)[2:].max() <= 1.01 * scales.max()


@pytest.mark.parametrize("bits", channel.BITS)
def test_codes_are_chosen_for_the_scales_that_half_precision_has(bits: int) -> None:
    """Of rows so small that it has few, and of some beyond its largest."""
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((256, 64)).astype(np.float32)
    second: F32 = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    known = Inputs(
        weights=np.ascontiguousarray(second.diagonal()),
        second_moment=SecondMoment(lambda: [second], shrink=0.0),
    )
    x = rng.standard_normal((8, 64)).astype(np.float32)
    small = np.array([2e-7, 4e-7, 1e-6, 3e-6], np.float32) * 2 ** (bits - 1) / 3
    x[:4], x[7] = x[:4] * small[:, None], x[7] * 1e8
    encoding = encodings.get(channel.name_of(bits, half=True))

    def errors(method: str) -> F32:
        decoded = encoding.decode(methods.get(method).encode(encoding, x, known), 64)
        assert np.isfinite(decoded).all()
        return np.square(inputs @ (decoded - x).T).sum(axis=0)[:7]

    assert (errors("gptq") <= errors("search")).all()
