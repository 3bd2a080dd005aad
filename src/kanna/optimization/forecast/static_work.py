"""What writing folders of fixed shapes takes: ranges, codes of weights, codes between all nodes.

Every folder is made from the float graph, in processes of onnxruntime: the calibration text is read
once for ranges and second moments, and once more in chunks where codes lie between all nodes. Text,
and so the work, is that of the presets, whatever an optimization is calibrated on.
"""

from __future__ import annotations

from kanna.conversion import onnx_derived
from kanna.optimization.forecast.calibration_work import ATTENTION, LAYER, forward
from kanna.optimization.forecast.effort import SearchExtent
from kanna.optimization.forecast.encoding_work import factor_seconds, gptq_seconds
from kanna.optimization.forecast.rates import MachineRates
from kanna.optimization.forecast.shapes import ModelShapes
from kanna.optimization.forecast.work import Work

_CHUNKED = 2
"""Folders with codes between all nodes: of the plan, and of the plain preset."""
_PROCESS = 1.5
"""CPU seconds of a process that has loaded onnx, onnxruntime and a graph."""
_RUN = 0.5
"""What onnxruntime multiplies in a second, and numpy in the shapes of these matrices, beside torch
in large ones."""
_SEEN = 4
"""Times that a value is read and written to know its range."""
_DECODED = 13
"""The same of a weight that is made of its codes for each chunk."""
_STATES, _SCORES = 24, 5
"""Vectors of the model's width that a layer gives for a token, and values for each position that a
head of it sees."""
_LOOKED = 0.0034
"""CPU seconds of Python to look at what a layer gives for a chunk."""
_HEAD_SIZE = 64
"""Columns of a head, near enough."""


def write(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> Work:
    """The plan with codes in both places, and the plain preset of that size."""
    folders = extent.proved
    each = _ranges(shapes, rates) + _codes(shapes, extent, rates)
    chunked = _chunks(shapes, extent, rates)
    started = _PROCESS * (folders + _CHUNKED) + LAYER * shapes.layers * 2 * folders
    graph, size = 4 * shapes.parameters, shapes.parameters * extent.bits / 8
    return Work(
        parallel=folders * each + _CHUNKED * chunked,
        alone=rates.slowness * started + folders * 3 * graph / rates.copied,
        written=folders * (graph + size),
        memory=2 * graph + 4 * sum(m.columns**2 for m in shapes.matrices),
        disk=2 * graph + folders * size,
        kept=folders * size,
    )


def _ranges(shapes: ModelShapes, rates: MachineRates) -> float:
    """CPU seconds of the text through the float graph, with the second moments of its inputs."""
    read = sum(site[0].columns for site in shapes.sites())
    given = sum(m.rows for m in shapes.matrices if m.site is not None)
    products = 2 * shapes.head + 2 * sum(site[0].columns ** 2 for site in shapes.sites())
    tokens = onnx_derived.TOKENS
    seconds = (forward(shapes, tokens, rates) + tokens * products / rates.products) / _RUN
    return seconds + _SEEN * 4 * tokens * (read + given) / rates.copied


def _codes(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> float:
    """CPU seconds of the codes of all matrices, as many in each of the candidates."""
    seconds = 0.0
    for matrix in shapes.matrices:
        if matrix.site is None:
            continue  # rows of an embedding, which are rounded to nearest
        wide = matrix.columns
        each = [gptq_seconds(name, matrix.weights, wide, rates) for name in extent.candidates]
        # Of what reads the same inputs each has a factor of its own.
        seconds += sum(each) / len(each) + factor_seconds(wide, wide, rates)
    return seconds


def _chunks(shapes: ModelShapes, extent: SearchExtent, rates: MachineRates) -> float:
    """CPU seconds of the text through the graph that reads a chunk, every value looked at."""
    static, tokens = extent.static, onnx_derived.TOKENS
    assert static is not None, "no shapes were asked for"
    products = 2 * (shapes.active + shapes.head)
    products += ATTENTION * 4 * static.context * shapes.heads * shapes.layers
    states = _STATES * shapes.hidden + _SCORES * static.context * shapes.heads / _HEAD_SIZE
    values = tokens * (states * shapes.layers + shapes.vocabulary)
    decoded = tokens / static.chunk * (shapes.body + shapes.head)
    moved = 4 * (_SEEN * values + _DECODED * decoded)
    looked = rates.slowness * _LOOKED * shapes.layers * tokens / static.chunk
    return tokens * products / (_RUN * rates.products) + moved / rates.copied + looked
