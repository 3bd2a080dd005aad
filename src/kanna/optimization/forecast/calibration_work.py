"""What calibrating and the backward pass take."""

from __future__ import annotations

from kanna.calibration import gradients, shrinkage
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.encoding_work import factor_seconds, gptq_seconds
from kanna.optimization.forecast.rates import MachineRates
from kanna.optimization.forecast.shapes import MatrixShape, ModelShapes
from kanna.optimization.forecast.work import Work

TORCH = 5.0
"""CPU seconds until torch and transformers are there."""
TORCH_BYTES = 550 << 20
"""Memory of them, and of all that is loaded beside."""
ATTENTION = 2.0
"""Times that the products of attention are counted: its softmax takes as long as they do."""
LAYER, WINDOW_OF_LAYER, SITE = 0.02, 0.003, 0.01
"""CPU seconds of Python for every layer, for a window that goes through it, and for a site."""
_SOFTMAX = 39
"""Times that the logits of the backward pass are read and written, by the time they take: 31 of
them are one label drawn of each, for which torch makes a random number for every logit."""


def forward(
    shapes: ModelShapes, tokens: float, rates: MachineRates, window: int | None = None
) -> float:
    """CPU seconds in torch of all layers over so many tokens, without the head."""
    window = window or shapes.window
    products = 2 * shapes.active * tokens
    attention = ATTENTION * 4 * tokens * window * shapes.heads * shapes.layers
    python = rates.slowness * WINDOW_OF_LAYER * shapes.layers * tokens / window
    return (products + attention) / rates.products + python


def read(weights: float, rates: MachineRates) -> float:
    """CPU seconds of weights that become float32."""
    return 16 * weights / rates.copied


def calibrate(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Second moments of the inputs of every matrix, and how far each is trusted."""
    tokens = extent.tokens
    summed = max(0, tokens - extent.held_windows(shapes.window) * shapes.window)
    held = extent.held_inputs(shapes.window)
    products, parallel = forward(shapes, tokens, rates), read(shapes.body, rates)
    alone = rates.slowness * (TORCH + LAYER * shapes.layers)
    written = shapes.moment_bytes()
    for site in shapes.sites():
        first = site[0]
        reads = shapes.used if first.experts > 1 else 1
        products += 2 * summed * reads * first.columns * first.block / rates.products
        written += 2 * held * first.columns
        choice = _shrinkage(site, held, rates)
        parallel, alone = parallel + choice[0], alone + choice[1] + rates.slowness * SITE
    widest = max((m.columns * m.block * 4 for m in shapes.matrices), default=0)
    layer = 4 * shapes.largest_layer() + 3 * widest
    states = 8 * tokens * shapes.hidden
    embedded = states + 4 * min(tokens, shapes.vocabulary) * shapes.hidden
    here, there = rates.in_torch(products)
    return Work(
        parallel=parallel + here,
        accelerated=there,
        alone=alone + 3 * written / rates.copied,
        written=written + states * shapes.layers,
        memory=TORCH_BYTES + max(layer, embedded),
        disk=states + written,
        kept=written,
    ).times(extent.passes)


def _shrinkage(site: list[MatrixShape], held: int, rates: MachineRates) -> tuple[float, float]:
    """CPU seconds on every core, and on one, of the choices of one site by its held-out inputs."""
    if not held:
        return 0.0, 0.0
    first = site[0]
    choices, experts, rows = len(shrinkage.CHOICES), 1, 0
    stacked = first.experts > 1
    if stacked:
        choices, experts = choices + len(shrinkage.SHARED), shrinkage.EXPERTS
    for matrix in site:
        rows += min(shrinkage.ROWS, matrix.rows // matrix.experts)
    encoding = "q4_k" if first.columns % 256 == 0 else "q4_0"
    encoded = gptq_seconds(encoding, rows * first.columns, first.block, rates)
    products = 2 * rows * first.columns * held / rates.products
    times = choices * experts
    return (
        times * factor_seconds(first.columns, first.block, rates),
        times * (encoded + products),
    )


def backward(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The gradients of every matrix's outputs."""
    length = max(64, min(shapes.window, gradients.LOGITS // shapes.vocabulary))
    windows = min(max(1, gradients.TOKENS // length), max(1, extent.tokens // shapes.window))
    tokens = windows * length
    # Forward, forward again, and back to the inputs alone: no weight gets a gradient.
    layers = 3 * forward(shapes, tokens, rates, length)
    head = 4 * shapes.head * tokens / rates.products
    head += 8 * _SOFTMAX * shapes.vocabulary * tokens / rates.copied
    states = 4 * tokens * shapes.hidden
    here, there = rates.in_torch(layers + head)
    return Work(
        accelerated=there,
        parallel=here + read(2 * shapes.body + 2 * shapes.head, rates),
        alone=rates.slowness * (1.0 + 2 * LAYER * shapes.layers),
        written=states * (2 * shapes.layers + 1),
        memory=TORCH_BYTES
        + 4 * max(shapes.head, shapes.largest_layer())
        + 24 * length * shapes.vocabulary,
        disk=states * (shapes.layers + 3),
        optional=True,
    ).times(extent.passes)
