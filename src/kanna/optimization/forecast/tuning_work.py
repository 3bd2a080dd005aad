"""What learning the scales takes."""

from __future__ import annotations

from kanna import encodings
from kanna.optimization.forecast.calibration_work import (
    LAYER,
    TORCH,
    TORCH_BYTES,
    forward,
    read,
)
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.rates import MachineRates
from kanna.optimization.forecast.search_work import TRIAL_WINDOWS, nearest_preset, runs, whole
from kanna.optimization.forecast.shapes import ModelShapes
from kanna.optimization.forecast.work import Work


def tuning(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Scales and norms, learnt in torch with one layer in memory at a time."""
    from kanna.optimization.tuning.head import LOGITS
    from kanna.optimization.tuning.learned_values import bytes_of
    from kanna.optimization.tuning.training import EPOCHS

    windows = 2 * max(1, extent.tokens // shapes.window)
    tokens, watched = windows * shapes.window, TRIAL_WINDOWS * shapes.window
    teacher = forward(shapes, tokens + watched, rates) + read(shapes.body, rates)
    # Forward, forward again, back to the inputs and to the weights; the weights are decoded for
    # each way, and multiplied with their factors three times.
    learned = 4 * forward(shapes, tokens, rates) + 8 * shapes.head * tokens / rates.products
    learned += windows * read(2 * shapes.body + 3 * shapes.head, rates)
    learned += windows * 5 * 8 * shapes.body / rates.copied
    learned += 4 * 14 * shapes.vocabulary * tokens / rates.copied
    seen = forward(shapes, watched, rates) + 4 * shapes.head * watched / rates.products
    seen += read(shapes.body + 2 * TRIAL_WINDOWS * shapes.head, rates)
    here, there = rates.in_torch(teacher + EPOCHS * (learned + seen) + seen)
    written = shapes.parameters * extent.bits / 8
    block = encodings.get(nearest_preset(extent.bits, shapes.hidden)).block
    states = 4 * (tokens + watched) * shapes.hidden
    files = EPOCHS * bytes_of(shapes.parameters // block) + states
    largest = max((m.weights for m in shapes.matrices if m.name.startswith("blk.")), default=0)
    states_of_window = shapes.window * shapes.hidden * shapes.layers
    of_layer = shapes.largest_layer() + 3 * largest + 34 * shapes.window * shapes.hidden
    logits = min(LOGITS, shapes.window * shapes.vocabulary)
    return Work(
        accelerated=there,
        parallel=here + runs(shapes, 3 * watched, rates) + 0.5 * whole(shapes, extent, rates),
        alone=rates.slowness * (TORCH + EPOCHS * windows * LAYER * shapes.layers),
        written=written + files,
        memory=TORCH_BYTES + 4 * (states_of_window + max(of_layer, 5 * logits)),
        disk=written + files,
        kept=written,
        optional=True,
    )
