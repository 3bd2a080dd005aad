"""Error feedback through torch: as good as the native code, the same twice, bytes that decode."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from kanna import _native, encodings, methods
from kanna.errors import UsageError
from kanna.families import load_model
from kanna.methods import Inputs, device
from kanna.methods.device import feedback, moments, plain, rows
from kanna.methods.device.grids import DeviceGrid, grid_of
from kanna.methods.device.moments import DeviceMoment
from kanna.methods.hessian import I32, SecondMoment
from kanna.model import F32, U8
from kanna.sources import open_source

NAMES = [n for n in sorted(_native.grids()) if grid_of(n)]
GGML = [n for n in NAMES if n in encodings.names() and not n.startswith(("affine", "nbits"))]
GROUPED = ("affine3g32_f16", "affine4g64", "affine8g128_f32", "nbits2g16s", "nbits4g32")
ROWS = 24
PLAIN = "cpu:0"
"""The CPU as a device of torch; `cpu` is the native code."""


@cache
def trained(cols: int) -> F32:
    source = open_source("builtin:stories15m")
    matrix = load_model(source).tensors["blk.2.ffn_down.weight"]
    return np.ascontiguousarray(matrix.rows(0, ROWS)[:, :cols])


@cache
def second_moment(cols: int) -> SecondMoment:
    """Of inputs with a few strong directions and some strong columns."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, cols))
    x += 3 * rng.standard_normal((400, 6)) @ rng.standard_normal((6, cols))
    x *= np.exp(rng.standard_normal(cols) * 0.5)
    h = (x.T @ x / len(x)).astype(np.float32)
    return SecondMoment(lambda: [h], shrink=0.1, device=PLAIN)


def moment_of(cols: int) -> DeviceMoment:
    return moments.moments_on(second_moment(cols), PLAIN)[0]


def searched(name: str, x: F32) -> U8:
    weights = moment_of(x.shape[1]).h.diagonal().numpy()
    return encodings.get(name).encode(x, weights=np.ascontiguousarray(weights))


def natively(name: str, x: F32, data: U8, *, passes: int, rounds: int) -> U8:
    data, block = data.copy(), second_moment(x.shape[1]).blocks()[0]
    order, factors = block.factors_for(1)
    _native.feedback(
        name,
        x,
        data,
        h=block.hessian,
        factors=factors,
        order=order,
        passes=passes,
        rounds=rounds,
        errors=np.empty((len(x), 2), np.float32),
        threads=1,
    )
    return data


def costs(name: str, data: U8, x: F32) -> np.ndarray[Any, Any]:
    """e' H e of every row, in double precision."""
    error = encodings.get(name).decode(data, x.shape[1]).astype(np.float64) - x
    h = moment_of(x.shape[1]).h.numpy().astype(np.float64)
    return np.einsum("ri,ij,rj->r", error, h, error)


def on_device(name: str, x: F32, data: U8, *, passes: int, rounds: int) -> U8:
    better = device.better_rows(
        name, x, data, second_moment(x.shape[1]), passes=passes, rounds=rounds
    )
    assert better is not None
    return better


def cols_of(name: str) -> int:
    """Two tiles for one encoding, else a block, or blocks that end within a tile and a panel."""
    block = encodings.get(name).block
    return {"q4_k": 512, "nbits2g16s": 272}.get(name, 288 if block == 32 else max(block, 128))


@pytest.mark.parametrize("name", [*GGML, *GROUPED])
def test_as_good_as_the_native_code(name: str) -> None:
    x = trained(cols_of(name))
    data = searched(name, x)
    kept = data.copy()
    now = on_device(name, x, data, passes=1, rounds=2)
    native = costs(name, natively(name, x, data, passes=1, rounds=2), x)
    ours, before = costs(name, now, x), costs(name, data, x)
    assert ours.sum() == pytest.approx(native.sum(), rel=0.01)
    assert ours.sum() < 0.8 * before.sum()
    assert (ours <= before * (1 + 1e-5)).all(), "a row that does not gain stays as it was"
    assert np.array_equal(data, kept)


def test_two_passes_as_gptq_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "LEAST_ROWS", 1)
    x, second = trained(512), second_moment(512)
    inputs = Inputs(weights=second.blocks()[0].hessian.diagonal().copy(), second_moment=second)
    gptq, encoding = methods.get("gptq"), encodings.get("q4_k")
    first = gptq.encode(encoding, x, inputs)
    native = natively("q4_k", x, searched("q4_k", x), passes=2, rounds=2)
    assert costs("q4_k", first, x).sum() == pytest.approx(costs("q4_k", native, x).sum(), rel=0.01)
    assert np.array_equal(first, gptq.encode(encoding, x, inputs))


@pytest.mark.parametrize("name", ["mxfp4g32", "nvfp4g16"])
def test_encodings_that_go_there_as_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "LEAST_ROWS", 1)
    x, second = trained(256), second_moment(256)
    encoding = encodings.get(name)
    start = encoding.encode(x, weights=second.blocks()[0].hessian.diagonal().copy())
    now = methods.get("gptq").encode(encoding, x, Inputs(second_moment=second))
    assert costs(name, now, x).sum() < 0.8 * costs(name, start, x).sum()


def test_values_are_those_that_decoders_give() -> None:
    x = trained(512)
    for name in NAMES:
        encoding, grid = encodings.get(name), grid_of(name)
        assert grid is not None
        assert (grid.block, grid.block_bytes) == (encoding.block, encoding.block_bytes), name
        data = encoding.encode(x)
        state = rows.opened(grid, torch.from_numpy(x), torch.from_numpy(data))
        values = encoding.decode(data, 512)
        assert np.allclose(state.error.numpy() + x, values, rtol=1e-6, atol=1e-6), name
        chosen = grid.moving and grid.zero is None  # zeros and fixed scales stay as they are
        empty = np.zeros_like(data) if chosen else data
        again = rows.closed(state, torch.from_numpy(empty))
        assert np.array_equal(again.numpy(), data), name
        low = state.low.repeat_interleave(grid.span, dim=1)
        assert torch.equal(rows.nearest(grid, state.level, low), state.level), name


def test_factors_are_those_of_the_native_code() -> None:
    moment, block = moment_of(512), second_moment(512).blocks()[0]
    order, factors = block.factors_for(1)
    assert factors is not None
    assert np.array_equal(moment.order.numpy(), order)
    assert np.allclose(moment.h.numpy(), block.hessian, rtol=1e-6, atol=1e-7)
    assert np.allclose(moment.m.numpy(), np.triu(factors, 1), rtol=1e-4, atol=1e-6)


def test_few_rows_take_their_factors_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks too, for whose groups of columns the order and the diagonal are others."""
    x, second = trained(256), SecondMoment(second_moment(256).measured, shrink=0.1, device=PLAIN)
    counts: list[int] = []
    on_device = moments.factorize

    def counted(hessian: F32, order: I32, where: str) -> F32 | None:
        counts.append(len(order))
        return on_device(hessian, order, where)

    monkeypatch.setattr(moments, "factorize", counted)
    for name in ("q4_0", "iq3_s"):
        start = searched(name, x)
        inputs = Inputs(second_moment=second)
        now = methods.get("gptq").encode(encodings.get(name), x, inputs)
        on_cpu = methods.get("gptq").encode(
            encodings.get(name), x, Inputs(second_moment=SecondMoment(second.measured, shrink=0.1))
        )
        ours, theirs = costs(name, now, x).sum(), costs(name, on_cpu, x).sum()
        assert ours == pytest.approx(theirs, rel=0.01)
        assert ours < costs(name, start, x).sum()
    assert counts == [256, 256]


def test_a_moment_without_rank_is_damped_until_it_has_factors() -> None:
    singular = np.ones((64, 64), np.float32)
    moment = moments.moments_on(SecondMoment(lambda: [singular], shrink=0.0), PLAIN)[0]
    assert torch.isfinite(moment.m).all()
    assert float(moment.h[0, 0]) > 1


def test_moments_in_blocks() -> None:
    x = trained(512)
    whole = second_moment(512).measured()[0]
    parts = [np.ascontiguousarray(whole[at : at + 256, at : at + 256]) for at in (0, 256)]
    second = SecondMoment(lambda: parts, shrink=0.1, device=PLAIN)
    data = searched("q6_k", x)
    now = device.better_rows("q6_k", x, data, second, passes=1, rounds=1)
    half = device.better_rows(
        "q6_k",
        x[:, :256],
        data[:, :210],
        SecondMoment(lambda: parts[:1], shrink=0.1, device=PLAIN),
        passes=1,
        rounds=1,
    )
    assert now is not None
    assert half is not None
    assert np.array_equal(now[:, :210], half)
    assert not np.array_equal(now[:, 210:], data[:, 210:])


def test_fewer_rows_at_a_time_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.tile(trained(128), (8, 1))
    data = searched("q4_0", x)
    plenty = on_device("q4_0", x, data, passes=1, rounds=1)
    improved, counts = feedback.improved, list[int]()

    def small(grid: DeviceGrid, moment: DeviceMoment, w: Any, data: Any, **options: int) -> Any:
        counts.append(len(w))
        if len(w) > 100:
            raise torch.OutOfMemoryError("no room")
        return improved(grid, moment, w, data, **options)

    monkeypatch.setattr(feedback, "improved", small)
    assert np.array_equal(on_device("q4_0", x, data, passes=1, rounds=1), plenty)
    assert counts == [192, 96, 96]


def test_the_cpu_takes_what_a_device_cannot_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "LEAST_ROWS", 1)
    x, second = trained(256), second_moment(256)
    weights = second.blocks()[0].hessian.diagonal().copy()
    monkeypatch.setattr(device, "remarks", type(device.remarks)())
    on_cpu = SecondMoment(second.measured, shrink=0.1)

    def same(name: str) -> bool:
        both = [
            methods.get("gptq").encode(
                encodings.get(name), x, Inputs(weights=weights, second_moment=s)
            )
            for s in (second, on_cpu)
        ]
        return np.array_equal(*both)

    assert same("iq2_xs")
    assert same("iq2_xs")
    (line,) = device.remarks.taken()
    assert "iq2_xs" in line

    def nowhere(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(feedback, "improved", nowhere)
    assert same("q4_0")
    (line,) = device.remarks.taken()
    assert "too little memory" in line


def test_which_device() -> None:
    assert device.pick("cpu") == "cpu"
    assert device.pick(None) in ("cpu", "cuda", "mps")
    with pytest.raises(UsageError, match="no device 'abacus' here"):
        device.pick("abacus")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are compiled for CUDA")
@pytest.mark.parametrize("name", [*GGML, *GROUPED])
def test_kernels_do_what_plain_torch_does(name: str) -> None:
    from kanna.methods.device import kernels

    cols, grid = cols_of(name), grid_of(name)
    assert grid is not None
    rng = np.random.default_rng(1)
    values = (0.05 * rng.standard_normal((200, cols))).astype(np.float32)
    x, data = torch.from_numpy(values).cuda(), torch.from_numpy(searched(name, values)).cuda()
    moment = moments.moments_on(second_moment(cols), "cuda")[0]
    results: list[dict[str, Any]] = []
    for steps in (plain, kernels):
        state = rows.opened(grid, x, data)
        work = plain.RowsAtWork(
            state=state,
            moment=moment,
            gradient=x.index_select(1, moment.order),
            ordered_level=torch.zeros_like(x),
            ordered_error=torch.zeros_like(x),
        )
        for first in (0, (cols - 1) // plain.PANEL * plain.PANEL):
            steps.round_panel(work, first, min(first + plain.PANEL, cols))
        work.gradient = state.error @ moment.h
        if grid.moving and grid.block > plain.PANEL:
            steps.refit(work, cols - grid.block)
        steps.improve_panel(work, first, cols)
        results.append(
            {
                "ordered level": work.ordered_level,
                "ordered error": work.ordered_error,
                "level": state.level,
                "error": state.error,
                "d": state.d,
                "scales": state.scales,
            }
        )
    # A value half way between two levels may go either way, and what follows it with it.
    for what, twin in results[0].items():
        apart = (results[1][what] - twin).abs() > 1e-3 * twin.abs().max()
        share = float(apart.float().mean())
        assert share < 0.02, f"{what}: {share:.4f} of the values are others"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are compiled for CUDA")
@pytest.mark.parametrize("name", [*GGML, *GROUPED])
def test_as_good_on_cuda_as_the_native_code(name: str) -> None:
    cols = cols_of(name)
    rng = np.random.default_rng(1)
    x = (0.05 * rng.standard_normal((200, cols))).astype(np.float32)
    second = SecondMoment(second_moment(cols).measured, shrink=0.1, device="cuda")
    data = searched(name, x)
    now = device.better_rows(name, x, data, second, passes=2, rounds=2)
    assert now is not None
    assert device.remarks.taken() == []
    again = device.better_rows(name, x, data, second, passes=2, rounds=2)
    assert again is not None
    assert np.array_equal(now, again)
    native = costs(name, natively(name, x, data, passes=2, rounds=2), x).sum()
    assert costs(name, now, x).sum() == pytest.approx(native, rel=0.01)
