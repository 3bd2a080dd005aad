"""Error feedback: the kernel against a plain twin, never worse than search, deterministic."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gguf
import numpy as np
import pytest

from kanna import _native, encodings, methods
from kanna.encodings import Encoding
from kanna.errors import PlanError
from kanna.methods import Inputs
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, U8

GRIDS = {
    n: group for n, group in _native.grids().items() if n in encodings.names()
}  # others: test_affine, test_nbits
GPTQ = methods.get("gptq")
ROWS, TOKENS = 19, 400  # rows: not a multiple of the lanes


@pytest.fixture
def any_simd() -> Iterator[None]:
    before = _native.simd()
    yield
    _native.set_simd(before)


def correlated(cols: int, tokens: int = TOKENS, seed: int = 0) -> F32:
    """Second moment of inputs with a few strong directions and some strong columns."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, cols)) + 3 * rng.standard_normal(
        (tokens, 6)
    ) @ rng.standard_normal((6, cols))
    x *= np.exp(rng.standard_normal(cols) * 0.5)
    return (x.T @ x / tokens).astype(np.float32)


def weights_of(cols: int, rows: int = ROWS, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(
        np.float32
    ) * np.float32(0.05)


def cols_of(encoding: Encoding) -> int:
    """Few blocks, and more than one panel.

    For small blocks not a whole number of the factors' panels.
    """
    return {32: 160, 64: 192}.get(encoding.block, 2 * encoding.block)


def cost(encoding: Encoding, data: U8, x: F32, h: F32) -> np.ndarray:
    """e' H e of every row, in double precision."""
    error = encoding.decode(data, x.shape[1]).astype(np.float64) - x
    return np.einsum("ri,ij,rj->r", error, h.astype(np.float64), error)


def whole(h: F32, shrink: float = 0.1) -> SecondMoment:
    return SecondMoment(lambda: [h], shrink=shrink)


def known(h: F32, second_moment: SecondMoment) -> Inputs:
    return Inputs(weights=np.ascontiguousarray(h.diagonal()), second_moment=second_moment)


def start(encoding: Encoding, x: F32, h: F32) -> U8:
    return encoding.encode(x, method="search", weights=np.ascontiguousarray(h.diagonal()))


# Scale, offset and levels of every value, as decoders compute them: what the twin needs to know.


def _q4_0(data: U8, cols: int) -> tuple[F32, F32, Callable[[F32], F32]]:
    d = data.reshape(-1, 18)[:, :2].copy().view(np.float16).astype(np.float32)
    scale = np.repeat(d, 32, axis=1).reshape(-1, cols)
    return scale, np.zeros_like(scale), lambda x: np.rint(np.clip(x, -8, 7))


def _q8_0(data: U8, cols: int) -> tuple[F32, F32, Callable[[F32], F32]]:
    d = data.reshape(-1, 34)[:, :2].copy().view(np.float16).astype(np.float32)
    scale = np.repeat(d, 32, axis=1).reshape(-1, cols)
    return scale, np.zeros_like(scale), lambda x: np.rint(np.clip(x, -127, 127))


def _q5_1(data: U8, cols: int) -> tuple[F32, F32, Callable[[F32], F32]]:
    d, m = data.reshape(-1, 24)[:, :4].copy().view(np.float16).astype(np.float32).T
    scale, offset = (np.repeat(v[:, None], 32, axis=1).reshape(-1, cols) for v in (d, m))
    return scale, offset, lambda x: np.rint(np.clip(x, 0, 31))


def _q4_k(data: U8, cols: int) -> tuple[F32, F32, Callable[[F32], F32]]:
    blocks = data.reshape(-1, 144)
    d, dmin = blocks[:, :4].copy().view(np.float16).astype(np.float32).T
    scales, mins = gguf.quants.Q4_K.get_scale_min(blocks[:, 4:16])
    scale = np.repeat(d[:, None] * scales.astype(np.float32), 32, axis=1).reshape(-1, cols)
    offset = -np.repeat(dmin[:, None] * mins.astype(np.float32), 32, axis=1).reshape(-1, cols)
    return scale, offset, lambda x: np.rint(np.clip(x, 0, 15))


def _iq4_nl(data: U8, cols: int) -> tuple[F32, F32, Callable[[F32], F32]]:
    d = data.reshape(-1, 18)[:, :2].copy().view(np.float16).astype(np.float32)
    scale = np.repeat(d, 32, axis=1).reshape(-1, cols)
    levels = np.array(gguf.quants.IQ4_NL.kvalues, np.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    return scale, np.zeros_like(scale), lambda x: levels[(x[..., None] > middles).sum(-1)]


PARTS = {"q4_0": _q4_0, "q8_0": _q8_0, "q5_1": _q5_1, "q4_k": _q4_k, "iq4_nl": _iq4_nl}


@pytest.mark.parametrize("name", PARTS)
def test_rounding_in_order_is_that_of_the_plain_loop(name: str) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols), correlated(cols)
    part = whole(h).blocks()[0]
    order, factors = part.factors_for(1)
    before = start(encoding, x, h)
    data, errors = before.copy(), np.empty((ROWS, 2), np.float32)
    _native.feedback(
        name,
        x,
        data=data,
        h=part.hessian,
        factors=factors,
        order=order,
        rounds=0,
        errors=errors,
        threads=1,
    )
    scale, offset, round_ = PARTS[name](before, cols)
    with np.errstate(divide="ignore"):
        inverse = np.where(np.abs(scale) > 1e-30, np.float32(1) / scale, np.float32(0))
    target, twin = x.copy(), np.empty_like(x)
    for p, j in enumerate(order):
        twin[:, j] = (
            scale[:, j] * round_((target[:, j] - offset[:, j]) * inverse[:, j]) + offset[:, j]
        )
        error = twin[:, j] - x[:, j]
        target[:, order[p + 1 :]] -= error[:, None] * factors[p, p + 1 :]
    improved = errors[:, 1] < errors[:, 0]
    assert improved.mean() > 0.8, "rounding in order gains on nearly every row"
    np.testing.assert_array_equal(encoding.decode(data, cols)[improved], twin[improved])
    np.testing.assert_array_equal(data[~improved], before[~improved])


@pytest.mark.parametrize("rounds", [0, 1, 3])
@pytest.mark.parametrize("name", GRIDS)
def test_errors_it_tells_are_those_of_the_bytes(name: str, rounds: int) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols), correlated(cols)
    part = whole(h).blocks()[0]
    order, factors = part.factors_for(GRIDS[name])
    data = start(encoding, x, h)
    before = cost(encoding, data, x, part.hessian)
    errors = np.empty((ROWS, 2), np.float32)
    _native.feedback(
        name,
        x,
        data=data,
        h=part.hessian,
        factors=factors,
        order=order,
        rounds=rounds,
        errors=errors,
        threads=2,
    )
    after = cost(encoding, data, x, part.hessian)
    np.testing.assert_allclose(errors[:, 0], before, rtol=2e-3)
    np.testing.assert_allclose(errors[:, 1], after, rtol=2e-3)


@pytest.mark.parametrize("name", GRIDS)
def test_no_row_is_worse_than_search_and_most_are_better(name: str) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols), correlated(cols)
    second_moment = whole(h)
    plain = start(encoding, x, h)
    found = GPTQ.encode(encoding, x, known(h, second_moment))
    before, after = (
        cost(encoding, d, x, second_moment.blocks()[0].hessian) for d in (plain, found)
    )
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < 0.8 * before.sum()


def test_every_grid_has_an_encoding() -> None:
    assert set(VARIANTS) | set(PARTS) <= set(GRIDS)
    assert all(encodings.get(name).name == name for name in _native.grids())


@pytest.mark.parametrize("name", GRIDS)
def test_bytes_depend_on_nothing_but_the_input(name: str, any_simd: None) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols, rows=40), correlated(cols)
    found: dict[str, bytes] = {}
    for isa in _native.simd_available():
        assert _native.set_simd(isa)
        for threads in (1, 2, 4) if isa == _native.simd_available()[0] else (1,):
            second_moment = whole(h)  # prepared anew by each
            found[f"{isa}, {threads} threads"] = GPTQ.encode(
                encoding, x, known(h, second_moment), threads=threads
            ).tobytes()
    second_moment = whole(h)
    for cuts in ((0, 16, 40), (0, 7, 23, 39, 40)):
        parts = [
            GPTQ.encode(encoding, x[a:b], known(h, second_moment), threads=2)
            for a, b in zip(cuts, cuts[1:], strict=False)
        ]
        found[f"row blocks {cuts}"] = np.concatenate(parts).tobytes()
    first = next(iter(found.values()))
    assert [what for what, data in found.items() if data != first] == []


@pytest.mark.parametrize("name", ["q4_0", "q4_k", "q6_k", "q2_0", "iq2_s"])
def test_blocks_along_the_diagonal_are_tensors_of_their_own(name: str) -> None:
    encoding = encodings.get(name)
    width = encoding.block if encoding.block > 64 else 3 * encoding.block
    hs = [correlated(width, seed=s) for s in range(3)]
    x = weights_of(3 * width)
    weights = np.concatenate([h.diagonal() for h in hs])
    found = GPTQ.encode(
        encoding,
        x,
        Inputs(weights=weights, second_moment=SecondMoment(lambda: hs, shrink=0.2)),
        threads=2,
    )
    for i, h in enumerate(hs):
        columns = slice(i * width, (i + 1) * width)
        place = slice(encoding.row_bytes(i * width), encoding.row_bytes((i + 1) * width))
        alone = GPTQ.encode(encoding, np.ascontiguousarray(x[:, columns]), known(h, whole(h, 0.2)))
        np.testing.assert_array_equal(found[:, place], alone)


SINGULAR = {
    "one direction": lambda n: np.ones((n, n), np.float32),
    "nothing": lambda n: np.zeros((n, n), np.float32),
    "few tokens": lambda n: correlated(n, tokens=3),
    "huge": lambda n: correlated(n) * np.float32(1e12),
    "tiny": lambda n: correlated(n) * np.float32(1e-12),
}


@pytest.mark.parametrize("kind", SINGULAR)
@pytest.mark.parametrize("name", GRIDS)
def test_singular_moments(name: str, kind: str) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols, rows=16), SINGULAR[kind](cols)
    second_moment = whole(h, 0.0)
    plain = start(encoding, x, h)
    found = GPTQ.encode(encoding, x, known(h, second_moment))
    assert np.isfinite(encoding.decode(found, cols)).all()
    damped = second_moment.blocks()[0].hessian
    assert (cost(encoding, found, x, damped) <= cost(encoding, plain, x, damped) * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", GRIDS)
def test_dead_inputs_and_rows_of_zeros(name: str) -> None:
    encoding = encodings.get(name)
    cols = cols_of(encoding)
    x, h = weights_of(cols), correlated(cols)
    dead = np.random.default_rng(5).permutation(cols)[: cols // 3]
    h[dead], h[:, dead] = 0, 0
    x[3] = 0
    x[:, : encoding.block] = 0
    second_moment = whole(h)
    plain = start(encoding, x, h)
    found = GPTQ.encode(encoding, x, known(h, second_moment))
    values = encoding.decode(found, cols)
    assert np.isfinite(values).all()
    damped = second_moment.blocks()[0].hessian
    assert (cost(encoding, found, x, damped) <= cost(encoding, plain, x, damped) * (1 + 1e-4)).all()
    np.testing.assert_array_equal(values[3], encoding.decode(plain, cols)[3])


def test_without_a_moment_it_is_search() -> None:
    encoding = encodings.get("q4_k")
    x = weights_of(512)
    np.testing.assert_array_equal(GPTQ.encode(encoding, x), encoding.encode(x, method="search"))


# Every way to store group 5 of a block, with the rest of the block held: bytes [variants, block
# bytes].


def _words(block: U8, at: int, values: np.ndarray) -> U8:
    """Copies of a block with little-endian words at an offset."""
    found = np.repeat(block[None], len(values), axis=0)
    found[:, at : at + values.dtype.itemsize] = values.view(np.uint8).reshape(len(values), -1)
    return found


def _iq2_xxs(block: U8) -> U8:
    signs = int.from_bytes(block[2 + 8 + 4 : 2 + 8 + 8].tobytes(), "little")
    every = np.arange(1 << 15, dtype=np.uint32)
    found = _words(block, 2 + 8 + 4, (every >> 8) << 7 | np.uint32(signs & ~(127 << 7)))
    found[:, 2 + 8 + 1] = every & 255
    return found


def _iq2_xs(block: U8) -> U8:
    return _words(block, 2 + 2 * 5, np.arange(1 << 16, dtype=np.uint16))


def _iq2_s(block: U8) -> U8:
    every = np.arange(1 << 18, dtype=np.uint32)
    found = np.repeat(block[None], len(every), axis=0)
    found[:, 2 + 5], found[:, 2 + 32 + 5] = every & 255, every >> 10
    found[:, 2 + 64 + 1] = found[:, 2 + 64 + 1] & 0xF3 | (every >> 8 & 3) << 2
    return found


def _iq3_s(block: U8) -> U8:
    # The first four of the eight values, which have a code of their own.
    every = np.arange(1 << 13, dtype=np.uint32)
    found = np.repeat(block[None], len(every), axis=0)
    found[:, 2 + 10] = every & 255
    found[:, 2 + 64 + 1] = found[:, 2 + 64 + 1] & 0xFB | (every >> 8 & 1) << 2
    found[:, 2 + 72 + 5] = found[:, 2 + 72 + 5] & 0xF0 | every >> 9
    return found


def _iq1_m(block: U8) -> U8:
    every = np.arange(1 << 12, dtype=np.uint32)
    found = np.repeat(block[None], len(every), axis=0)
    found[:, 5] = every & 255
    found[:, 32 + 2] = found[:, 32 + 2] & 0x0F | every >> 8 << 4
    return found


VARIANTS = {
    "iq2_xxs": _iq2_xxs,
    "iq2_xs": _iq2_xs,
    "iq2_s": _iq2_s,
    "iq3_s": _iq3_s,
    "iq1_m": _iq1_m,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_vectors_are_the_nearest_that_can_be_stored(name: str) -> None:
    """Where columns are not correlated, nothing but the nearest vector will do.

    Signs, parity and shift included.
    """
    encoding = encodings.get(name)
    h = np.diag(np.exp(np.random.default_rng(2).standard_normal(256))).astype(np.float32)
    part = whole(h, 0.0).blocks()[0]
    x = weights_of(256, rows=16)
    data = encoding.encode(np.roll(x, 8, axis=1))  # other values' codes, so that every row gains
    order, factors = part.factors_for(8)
    errors = np.empty((16, 2), np.float32)
    _native.feedback(
        name,
        x,
        data=data,
        h=part.hessian,
        factors=factors,
        order=order,
        rounds=0,
        errors=errors,
        threads=1,
    )
    assert (errors[:, 1] < errors[:, 0]).all()
    group = slice(40, 44 if name == "iq3_s" else 48)
    weights = part.hessian.diagonal()[group]
    for row in range(0, 16, 5):
        variants = VARIANTS[name](data[row])
        found = [
            encoding.decode(variants[i : i + 4096], 256)[:, group]
            for i in range(0, len(variants), 4096)
        ]
        costs = (np.square(np.concatenate(found) - x[row, group], dtype=np.float64) * weights).sum(
            axis=1
        )
        chosen = (
            np.square(encoding.decode(data[row : row + 1], 256)[0, group] - x[row, group]) * weights
        ).sum()
        np.testing.assert_allclose(chosen, costs.min(), rtol=1e-5)


def test_groups_are_visited_whole() -> None:
    h = correlated(512)
    order, factors = whole(h).blocks()[0].factors_for(8)
    assert factors is not None and sorted(order) == list(range(512))
    groups = order.reshape(-1, 8)
    assert (groups == groups[:, :1] + np.arange(8)).all() and (groups[:, 0] % 8 == 0).all()
    power = h.diagonal()[groups].sum(axis=1)
    assert (np.diff(power) <= 1e-3 * power[:-1]).all()
    x = weights_of(512)
    data, errors = start(encodings.get("iq2_s"), x, h), np.empty((ROWS, 2), np.float32)
    for broken in (np.roll(order, 1), order[::-1].copy(), order + np.int32(8)):
        with pytest.raises(ValueError, match="order"):
            _native.feedback(
                "iq2_s",
                x,
                data=data,
                h=h,
                factors=factors,
                order=broken,
                rounds=1,
                errors=errors,
                threads=1,
            )


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 130, 256])
def test_factors_are_those_of_cholesky(n: int) -> None:
    h = correlated(n) + np.eye(n, dtype=np.float32)
    order = np.random.default_rng(n).permutation(n).astype(np.int32)
    found = np.empty((n, n), np.float32)
    assert _native.feedback_factors(h, order, found, 2)
    turned = h[np.ix_(order, order)].astype(np.float64)
    r = np.linalg.cholesky(turned[::-1, ::-1])[::-1, ::-1]  # upper triangular, r r' = turned
    np.testing.assert_allclose(r @ r.T, turned, rtol=1e-6, atol=1e-6 * turned.max())
    np.testing.assert_allclose(
        found, np.triu(r / np.diag(r), 1) + np.diag(np.diag(r) ** 2), rtol=1e-4, atol=1e-5
    )
    for threads in (1, 3, 4):
        again = np.empty_like(found)
        assert _native.feedback_factors(h, order, again, threads)
        assert again.tobytes() == found.tobytes()


@pytest.mark.parametrize("spoil", ["negative", "indefinite", "not a number"])
def test_what_is_not_positive_definite_has_no_factors(spoil: str) -> None:
    n = 100
    h = correlated(n) + np.eye(n, dtype=np.float32)
    if spoil == "negative":
        h[70, 70] = -1
    elif spoil == "indefinite":
        h[3, 90] = h[90, 3] = 10 * np.sqrt(h[3, 3] * h[90, 90])
    else:
        h[50, 20] = h[20, 50] = np.nan
    order = np.arange(n, dtype=np.int32)
    assert not _native.feedback_factors(h, order, np.empty((n, n), np.float32), 2)


def test_a_damaged_moment_is_refused() -> None:
    h = correlated(64)
    h[5, 6] = h[6, 5] = np.nan
    with pytest.raises(PlanError, match="not numbers"):
        whole(h).blocks()


def test_shapes_are_checked() -> None:
    x, h = weights_of(96), correlated(96)
    data, errors = start(encodings.get("q4_0"), x, h), np.empty((ROWS, 2), np.float32)
    order = np.arange(96, dtype=np.int32)
    with pytest.raises(ValueError, match="shapes"):
        _native.feedback(
            "q4_0",
            x,
            data=data,
            h=h[:64, :64].copy(),
            factors=None,
            order=order,
            rounds=1,
            errors=errors,
            threads=1,
        )
    with pytest.raises(ValueError, match="shapes"):
        _native.feedback(
            "q4_0",
            x,
            data=data,
            h=h,
            factors=None,
            order=order[:64].copy(),
            rounds=1,
            errors=errors,
            threads=1,
        )
    with pytest.raises(KeyError):
        _native.feedback(
            "f16", x, data=data, h=h, factors=None, order=order, rounds=1, errors=errors, threads=1
        )
