"""What measuring, writing and proving files take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kanna import encodings
from kanna.optimization import measure as costs
from kanna.optimization.forecast import static_work
from kanna.optimization.forecast.calibration_work import forward, read
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.encoding_work import (
    factor_seconds,
    gptq_seconds,
    mixture,
    nearest,
    search_seconds,
    vectors,
)
from kanna.optimization.forecast.rates import MachineRates
from kanna.optimization.forecast.shapes import MatrixShape, ModelShapes
from kanna.optimization.forecast.work import Work
from kanna.optimization.text_extent import probe_windows
from kanna.runtimes.llamacpp import CACHES

RUNTIME = 0.55
"""What llama.cpp multiplies in a second beside torch."""
LOADED = 0.1
"""CPU seconds until a file is open in llama.cpp."""
BASE_BYTES = 250 << 20
"""Memory of kanna, of the runtime, and of what they load."""
CELL = 0.0015
"""CPU seconds of Python to measure one encoding on one matrix."""
_COMPARED = 6
"""Times that logits are read and written when they are compared."""
TRIAL_WINDOWS = 12
_PROBE_BITS = 4.6
"""Bits per weight of what is probed."""
_LEVEL_WINDOWS, _LEVEL_KINDS = 8, 5
_REFERENCE_CHECK = 4.0
"""CPU seconds of the check of the reference: torch in a process of its own."""
_CHECKED = 2.0
"""CPU seconds of the checks of one file, beside what depends on the model."""
_SPEED_TOKENS = 1200
"""Tokens that `bench` reads and generates, as work on weights."""
_TIMED, _TIMED_TOKENS, _TIMED_WEIGHTS = 1.5, 3300, 64e6
"""To time one encoding: CPU seconds until its files are open, tokens, and weights at most."""
_PROCESS = 0.8
"""CPU seconds of a process that loads a file to measure its memory."""
_CHANGED = 0.12
"""Part of the weights that a swap encodes again."""


def runs(shapes: ModelShapes, tokens: float, rates: MachineRates, *, scored: float = 0.5) -> float:
    """CPU seconds of llama.cpp over tokens; of `scored` of them there are logits to compare."""
    products = 2 * (shapes.active + scored * shapes.head) * tokens / (RUNTIME * rates.products)
    return products + 4 * _COMPARED * scored * tokens * shapes.vocabulary / rates.copied


def measure(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Every encoding on some rows of every matrix."""
    parallel = alone = 0.0
    known: set[str] = set()
    several = any(vectors(name) for name in extent.candidates)
    for matrix in shapes.matrices:
        parts = min(costs.EXPERTS, matrix.experts)
        count = costs.HEAD_ROWS if matrix.site in (None, "head") else costs.ROWS
        rows = min(count, matrix.rows)
        if matrix.site is not None and matrix.site not in known:
            known.add(matrix.site)
            times = parts * (2 if several and matrix.columns % 256 == 0 else 1)
            parallel += times * factor_seconds(matrix.columns, matrix.block, rates)
        parallel += _cells(matrix, rows, extent, rates, extent.held_inputs(shapes.window))
        alone += rates.slowness * (5e-5 * rows + 0.01)
    blocks = [m for m in shapes.matrices if m.site is not None]
    moments = max((m.columns * m.block * 4 for m in blocks), default=0)
    rows_bytes = 4 * costs.HEAD_ROWS * max((m.columns for m in shapes.matrices), default=0)
    return Work(
        parallel=parallel,
        alone=alone,
        memory=BASE_BYTES + 6 * moments + 4 * extent.threads * rows_bytes,
    )


def _cells(
    matrix: MatrixShape, rows: int, extent: SearchExtent, rates: MachineRates, held: int
) -> float:
    seconds = 0.0
    for name in extent.candidates:
        if matrix.columns % encodings.get(name).block:
            continue
        weights = rows * matrix.columns
        if matrix.site is None:
            seconds += search_seconds(name, weights, rates)
        else:
            seconds += gptq_seconds(name, weights, matrix.block, rates)
            # Without held-out inputs the columns count by themselves, an input each.
            seconds += 2 * weights * (held or matrix.columns) / rates.products
            if matrix.name in costs.TABLES:
                seconds += search_seconds(name, weights, rates)  # read forwards, too
        seconds += rates.slowness * CELL
    return seconds


def whole(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> float:
    """CPU seconds of every weight by `gptq`, in the encodings of a plan, with all factors."""
    return _encoded(shapes, rates, lambda wide: mixture(extent.bits, wide, extent.candidates))


def _encoded(
    shapes: ModelShapes, rates: MachineRates, shares: Callable[[int], Mapping[str, float]]
) -> float:
    """The same for the share of each encoding in matrices of so many columns."""
    seconds = 0.0
    for site in shapes.sites():
        first = site[0]
        times = first.experts * (2 if any(map(vectors, shares(first.columns))) else 1)
        seconds += times * factor_seconds(first.columns, first.block, rates)
    for matrix in shapes.matrices:
        for name, share in shares(matrix.columns).items():
            weights = share * matrix.weights
            if matrix.site is None:
                seconds += search_seconds(name, weights, rates)
            else:
                seconds += gptq_seconds(name, weights, matrix.block, rates)
    return seconds + read(sum(m.weights for m in shapes.matrices), rates)


def nearest_preset(bits: float, columns: int) -> str:
    """The encoding of a plain preset of about so many bits."""
    return nearest(bits, columns, costs.CANDIDATES)


def reference(shapes: ModelShapes, rates: MachineRates) -> Work:
    """The source in float32 for llama.cpp, and the check that it is what its library computes."""
    return Work(
        parallel=read(2 * shapes.parameters, rates) + forward(shapes, 64, rates),
        alone=rates.slowness * _REFERENCE_CHECK,
        written=4 * shapes.parameters,
        cache=4 * shapes.parameters,
    )


def probe(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Every kind of matrix quantized alone, in the runtime."""
    # Where the rest is in 8 bits and not in 16, what it costs alone is measured, too.
    files, half = shapes.kinds + (not extent.compares), 2 * shapes.parameters
    tokens = probe_windows(shapes.parameters) * shapes.window
    scored = runs(shapes, tokens * (files + 1), rates)
    encoded = _encoded(shapes, rates, lambda wide: {nearest_preset(_PROBE_BITS, wide): 1.0})
    logits = 2 * tokens * shapes.vocabulary
    return Work(
        parallel=scored + encoded + files * read(shapes.parameters, rates),
        alone=rates.slowness * LOADED * (files + 1),
        written=half * files + logits,
        memory=BASE_BYTES + 6 * shapes.window * shapes.vocabulary + _moments(shapes),
        disk=half + logits,
    )


def _timing(shapes: ModelShapes, rates: MachineRates) -> float:
    """CPU seconds to time one encoding beside the usual one, see `benchmark/costs`."""
    weights = min(_TIMED_WEIGHTS, shapes.active) + shapes.head
    return 2 * weights * _TIMED_TOKENS / (RUNTIME * rates.products)


def _moments(shapes: ModelShapes) -> float:
    return 4 * max((4 * m.columns * m.block for m in shapes.matrices), default=0)


def allocate(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The plan, with what encodings cost a token where that is to be measured for it.

    With a budget of memory the cache too, judged and filled at its full context.
    """
    cells = len(shapes.matrices) * len(extent.candidates)
    alone = rates.slowness * (0.02 + 4e-5 * cells + _TIMED * extent.timed)
    alone += extent.timed * _timing(shapes, rates) / max(1, extent.threads)
    tokens = extent.cache_tokens
    if not tokens:
        return Work(alone=alone, memory=BASE_BYTES)
    judged = runs(shapes, tokens, rates) + attended(shapes, tokens, rates)
    filled = 2 * shapes.active * tokens / (RUNTIME * rates.products)
    filled += attended(shapes, tokens, rates)
    files = 1 + extent.proved  # the one that is tried, and those
    tried = sum(
        search_seconds(nearest_preset(extent.bits, m.columns), m.weights, rates)
        for m in shapes.matrices
    )
    size = shapes.parameters * extent.bits / 8
    return Work(
        parallel=len(CACHES) * judged + files * filled + tried,
        alone=alone + rates.slowness * (_PROCESS * files + LOADED * len(CACHES)),
        written=size,
        memory=BASE_BYTES + size + 4 * shapes.window * shapes.vocabulary,
        disk=size + tokens * shapes.vocabulary,
    )


def attended(shapes: ModelShapes, tokens: int, rates: MachineRates) -> float:
    """CPU seconds of attention over a context: every token to those before it, in every layer."""
    return 2 * shapes.heads * shapes.layers * tokens**2 / (RUNTIME * rates.products)


def write(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The file, and the plain preset of that size."""
    if extent.static is not None:
        return static_work.write(shapes, extent, rates)
    size = shapes.parameters * extent.bits / 8
    plain = sum(
        search_seconds(nearest_preset(extent.bits, m.columns), m.weights, rates)
        for m in shapes.matrices
    )
    checked = read(2 * shapes.parameters, rates)
    return Work(
        parallel=whole(shapes, extent, rates) + plain + checked,
        alone=rates.slowness * 2.0,
        written=2 * size,
        memory=BASE_BYTES + _moments(shapes),
        disk=2 * size,
        kept=2 * size,
    )


def accuracy(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The float graph, and one graph for each kind of product and three more, over its data."""
    graphs = _LEVEL_KINDS + 3
    tokens = _LEVEL_WINDOWS * shapes.window
    return Work(
        parallel=runs(shapes, tokens * (graphs + 1), rates),
        alone=rates.slowness * LOADED * (graphs + 1),
        memory=BASE_BYTES + 4 * shapes.parameters + 4 * tokens * shapes.vocabulary,
    )


def local_search(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """At most so many swaps of encodings, each scored in the runtime."""
    size = shapes.parameters * extent.bits / 8
    tokens = TRIAL_WINDOWS * shapes.window
    once = runs(shapes, tokens, rates) + _CHANGED * whole(shapes, extent, rates)
    return Work(
        parallel=extent.swaps * once + 2 * runs(shapes, tokens, rates),
        alone=extent.swaps * (rates.slowness * (LOADED + 0.5) + 2 * size / rates.copied),
        written=size * extent.swaps,
        memory=BASE_BYTES + 6 * shapes.window * shapes.vocabulary + _moments(shapes),
        disk=size + 2 * tokens * shapes.vocabulary,
    )


def prove(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """Checks, divergence and speed of the files."""
    files = extent.proved
    tokens = extent.evaluated * shapes.window
    if not extent.compares:
        checked = 1
        spent = (files + 1) * forward(shapes, tokens, rates)
        spent += 2 * (files + 1) * shapes.head * tokens / rates.products
    else:
        checked = files
        spent = runs(shapes, (files + 1) * tokens, rates)
        spent += (
            files * 2 * (shapes.active + shapes.head) * _SPEED_TOKENS / (RUNTIME * rates.products)
        )
    spent += (files + 1 if extent.compares else 2) * answered(shapes, extent.guard_tokens, rates)
    spent += checked * read(2 * shapes.parameters, rates)
    # Made before all stages, and counted here.
    first = Work() if extent.referenced else reference(shapes, rates)
    return Work(
        parallel=first.parallel + spent,
        alone=first.alone + rates.slowness * (checked * _CHECKED + 1.5),
        written=first.written,
        memory=BASE_BYTES + 10 * shapes.window * shapes.vocabulary,
        disk=2 * TRIAL_WINDOWS * shapes.window * shapes.vocabulary,
        cache=first.cache,
    )


def answered(shapes: ModelShapes, tokens: int, rates: MachineRates) -> float:
    """CPU seconds of llama.cpp over tokens of questions and answers, one after the other."""
    return 2 * (shapes.active + shapes.head) * tokens / (RUNTIME * rates.products)


def guard(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """One larger file, written and asked."""
    size = shapes.parameters * extent.bits / 8
    return Work(
        parallel=whole(shapes, extent, rates) + answered(shapes, extent.guard_tokens, rates),
        alone=rates.slowness * LOADED,
        written=size,
        memory=BASE_BYTES + _moments(shapes),
        disk=2 * size,
    )


def report(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The page, and the divergence on each kind of text."""
    files = 1 + extent.proved
    scored = runs(shapes, files * TRIAL_WINDOWS * shapes.window, rates) if extent.compares else 0.0
    return Work(
        parallel=scored,
        alone=rates.slowness * 1.5,
        memory=BASE_BYTES + 6 * shapes.window * shapes.vocabulary,
        disk=2 * TRIAL_WINDOWS * shapes.window * shapes.vocabulary,
    )
