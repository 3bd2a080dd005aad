"""Costs of encodings in mlx: `quantized_matmul`, as mlx-lm's layers call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kanna import encodings
from kanna.benchmark.costs.base import the_cpu
from kanna.benchmark.costs.products import product_costs
from kanna.benchmark.skeleton import one_of_many
from kanna.encodings.base import Encoding
from kanna.model import U8
from kanna.plan import mlx as presets

_SCALES = ("scales", "biases")


def multiplier(
    encoding: str, rows: int, cols: int, *, copies: int, threads: int
) -> Callable[[int], object]:
    """Products with packed matrices, or with plain ones in a floating type; see `Multiplier`."""
    import mlx.core as mx

    del threads  # mlx has no setting for them: the process is confined
    kind = encodings.get(encoding)
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    number = mx.float32 if on_cpu else mx.float16  # as the engine has it
    repeated = np.arange(rows) % len(one_of_many(encoding, cols, 0))
    matrices = [
        _matrix(mx, kind, one_of_many(encoding, cols, at)[repeated], cols, number)
        for at in range(copies)
    ]
    mx.eval(matrices)
    multiply: Any = mx.quantized_matmul

    def run(tokens: int) -> object:
        values = np.random.default_rng(tokens).standard_normal((1, tokens, cols), np.float32)
        x = mx.array(values).astype(number)
        if kind.settings:
            made: list[Any] = [multiply(x, w, **rest, **kind.settings) for w, rest in matrices]
        else:
            made = [x @ w.T for w, _ in matrices]
        mx.eval(made)
        return made

    return run


def _matrix(
    mx: Any, kind: Encoding, held: U8, cols: int, number: Any
) -> tuple[Any, dict[str, Any]]:
    """Codes u32 [rows, words], and by name scales and biases [rows, groups]; or plain numbers."""
    if not kind.settings:
        return mx.array(kind.decode(held, cols)).astype(number), {}
    codes, *rest = kind.split(held)
    beside: dict[str, Any] = {}
    for name, plane, data in zip(_SCALES, kind.planes[1:], rest, strict=False):
        wide = encodings.get(plane.dtype).decode(np.ascontiguousarray(data), cols // kind.block)
        beside[name] = mx.array(wide).astype(number)
    return mx.array(np.ascontiguousarray(codes).view(np.uint32)), beside


def _backend() -> str:
    """The GPU where mlx has one, in the words of target profiles."""
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.cpu:
        return the_cpu()
    return "metal" if mx.metal.is_available() else "cuda"


COSTS = product_costs("mlx", multiplier, presets.candidates, _backend)
