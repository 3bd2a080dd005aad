"""MLX's float modes against mlx itself."""

from __future__ import annotations

import numpy as np
import pytest

from kanna import encodings, methods
from kanna.encodings.grouped import mx as modes
from kanna.methods import Inputs
from kanna.methods.hessian import SecondMoment

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
MODES = [m.name for m in modes.MODES]


def values(rows: int = 300, cols: int = 128) -> np.ndarray:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((rows, cols)) * 0.03 * np.exp(rng.standard_normal((rows, 1)))).astype(
        np.float32
    )
    x[0], x[1], x[2] = 0, -1e-6, np.linspace(-6, 6, cols)
    x[3], x[4], x[5] = np.linspace(-448, 448, cols), np.arange(cols) * 2.0**-14, 1000
    return x


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("mode", MODES)
def test_nearest_gives_the_planes_of_mlx_and_values_are_its_own(mode: str, number: str) -> None:
    mx = pytest.importorskip("mlx.core")
    encoding = encodings.get(modes.name_of(mode, number))
    x = values()
    packed, scales = mx.quantize(
        mx.array(x).astype(getattr(mx, TYPES[number])), mode=mode, stream=mx.cpu
    )
    data = encoding.encode(x, method="nearest")
    codes, own = encoding.split(data)
    assert np.array_equal(codes, np.array(packed).view(np.uint8))
    assert np.array_equal(own, np.array(scales))
    wanted = mx.dequantize(packed, scales, mode=mode, dtype=mx.float32, stream=mx.cpu)
    assert np.array_equal(encoding.decode(data, x.shape[1]), np.array(wanted))


@pytest.mark.parametrize("mode", MODES)
def test_no_group_is_worse_by_search(mode: str) -> None:
    encoding = encodings.get(modes.name_of(mode, "f32"))
    x = values()
    weights = np.random.default_rng(4).random(x.shape[1]).astype(np.float32)

    def errors(method: str) -> np.ndarray:
        off = encoding.decode(
            encoding.encode(x, method=method, weights=weights), x.shape[1]
        ) - x.astype(np.float64)
        return (weights * off**2).reshape(len(x), -1, encoding.block).sum(2)

    plain, found = errors("nearest"), errors("search")
    assert (found <= plain * (1 + 1e-6)).all()
    if (
        mode != "mxfp8"
    ):  # where a scale of half or twice the size gives the same floats, but for the ends
        assert found[6:].sum() < 0.95 * plain[6:].sum()


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4"])
def test_feedback_lowers_the_error_under_the_moment(mode: str) -> None:
    encoding = encodings.get(modes.name_of(mode))
    rng = np.random.default_rng(11)
    inputs = rng.standard_normal((1000, 128)) @ (
        np.eye(128) + 0.1 * rng.standard_normal((128, 128))
    )
    h = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    second_moment = SecondMoment(lambda: [h], shrink=0.0)
    x = values()[6:60]
    assert encoding.to_grid and encoding.from_grid
    data = encoding.encode(x)
    assert np.array_equal(encoding.from_grid(encoding.to_grid(data)), data)
    twin = encodings.get(encoding.grid)
    assert np.array_equal(twin.decode(encoding.to_grid(data), 128), encoding.decode(data, 128))

    def cost(method: str) -> float:
        found = methods.get(method).encode(
            encoding, x, Inputs(weights=h.diagonal().copy(), second_moment=second_moment)
        )
        off = encoding.decode(found, 128).astype(np.float64) - x
        return float(
            np.einsum("ri,ij,rj->", off, second_moment.blocks()[0].hessian.astype(np.float64), off)
        )

    assert cost("gptq") < 0.8 * cost("search")
