"""What choosing values again behind quantized layers takes."""

from __future__ import annotations

from kanna.optimization.correction.deciding_text import WINDOWS
from kanna.optimization.correction.pass_text import JUDGING, TOKENS
from kanna.optimization.correction.rounding import BATCH, STEPS
from kanna.optimization.forecast.calibration_work import SITE, TORCH, TORCH_BYTES, forward, read
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.encoding_work import factor_seconds, mixture, vectors
from kanna.optimization.forecast.rates import MachineRates
from kanna.optimization.forecast.search_work import LOADED, runs, whole
from kanna.optimization.forecast.shapes import MatrixShape, ModelShapes
from kanna.optimization.forecast.work import Work

_PASSES = 3.5
"""Times that a network reads the text: to each site of a layer, and through all of it."""
_BACKWARD = 3
"""Times that a step of learning codes multiplies what a forward pass does."""
_READ = 20
"""Times that a step reads or writes the weights of a layer."""
_ROUNDED = 5.0
"""Searches of Q4_K that rounding a vector to its target takes, in each step."""
_LEARNED_BITS = 5
"""Bits per weight from which on most encodings have more levels than are learned."""
_KINDS = 5
"""Kinds of text that decide."""
_DOUBLE = 2.0
"""How much longer products in double precision take."""


def correction(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Two networks side by side, products and values at every site, codes learned, files scored."""
    tokens = min(TOKENS, extent.tokens)
    products, parallel = 2 * _PASSES * forward(shapes, tokens, rates), read(2 * shapes.body, rates)
    able = [site for site in shapes.sites() if _able(site[0])]
    for site in able:
        parallel += sum(_products(matrix, tokens, rates) for matrix in site)
        products += 4 * tokens * site[0].columns ** 2 / rates.products
    parallel += whole(shapes, extent, rates)
    widest = max((site[0].columns for site in able), default=0)
    files = 2  # before and after
    if extent.bits < _LEARNED_BITS:
        files += 1
        judging = min(JUDGING, extent.held_windows(shapes.window) * shapes.window)
        products += 2 * forward(shapes, extent.tokens - tokens + judging, rates)
        shares = mixture(extent.bits, widest, extent.candidates) if able else {}
        grouped = sum(share for name, share in shares.items() if vectors(name))
        times = 2 if 0 < grouped < 1 else 1  # codes on lines, and vectors
        products += times * _BACKWARD * forward(shapes, STEPS * BATCH * shapes.window, rates)
        parallel += 4 * _READ * STEPS * shapes.body / rates.copied
        parallel += _ROUNDED * grouped * STEPS * shapes.body / rates.search
    deciding = WINDOWS * _KINDS * shapes.window
    states, written = 4 * extent.tokens * shapes.hidden, shapes.parameters * extent.bits / 8
    here, there = rates.in_torch(products)
    return Work(
        accelerated=there,
        parallel=here + parallel + runs(shapes, (files + 1) * deciding, rates),
        alone=rates.slowness * (TORCH + SITE * len(able) + (files + 1) * LOADED)
        + 2 * files * written / rates.copied,
        written=2 * states * (shapes.layers + 1) + files * written,
        memory=TORCH_BYTES
        + 24 * shapes.largest_layer()
        + 4 * states
        + 6 * 8 * widest**2
        + 6 * shapes.window * shapes.vocabulary,
        disk=2 * states + files * written + 2 * deciding * shapes.vocabulary,
        kept=written,
        optional=True,
    )


def _able(first: MatrixShape) -> bool:
    """Whether the matrices of a site are chosen again."""
    return first.experts == 1 and first.block == first.columns and first.name.startswith("blk.")


def _products(matrix: MatrixShape, tokens: int, rates: MachineRates) -> float:
    """CPU seconds of the target of one matrix: sums of its residual, a fit, and both errors."""
    rows, columns = matrix.rows, matrix.columns
    fit = _DOUBLE * (2 / 3 * columns**3 + 12 * rows * columns**2) / rates.products
    residual = 2 * tokens * rows * columns / rates.products
    return fit + residual + factor_seconds(columns, columns, rates)
