"""The numbers by which a graph shapes what it computes, found without running it.

Sizes that come with a text count as 1: what a graph takes for one token it takes for every text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_MOST = 64
"""Numbers of a shape, or of what becomes one."""
_INT32, _INT64 = 6, 7
"""Types of onnx.TensorProto."""


def _axes(node: Any, inputs: list[Integers]) -> tuple[int, ...]:
    if len(inputs) > 1:
        return tuple(int(axis) for axis in inputs[1].reshape(-1))
    return ()


def _unsqueeze(node: Any, inputs: list[Integers]) -> Integers:
    return np.expand_dims(inputs[0], _axes(node, inputs))


def _squeeze(node: Any, inputs: list[Integers]) -> Integers:
    return np.squeeze(inputs[0], _axes(node, inputs) or None)


def _slice(node: Any, inputs: list[Integers]) -> Integers:
    data, starts, stops = inputs[:3]
    axes = inputs[3] if len(inputs) > 3 else np.arange(len(starts))
    steps = inputs[4] if len(inputs) > 4 else np.ones(len(starts), np.int64)
    parts = [slice(None)] * data.ndim
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        # Backwards to before the first one is written as a very low number.
        end = None if step < 0 and stop < -data.shape[axis] else int(stop)
        parts[int(axis)] = slice(int(start), end, int(step))
    return data[tuple(parts)]


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


_OPERATIONS: Mapping[str, Callable[[Any, list[Integers]], Any]] = {
    "Identity": lambda node, inputs: inputs[0],
    "Cast": lambda node, inputs: inputs[0],
    "Add": lambda node, inputs: inputs[0] + inputs[1],
    "Sub": lambda node, inputs: inputs[0] - inputs[1],
    "Mul": lambda node, inputs: inputs[0] * inputs[1],
    "Div": lambda node, inputs: inputs[0] // inputs[1],
    "Pow": lambda node, inputs: inputs[0] ** inputs[1],
    "Neg": lambda node, inputs: -inputs[0],
    "Max": lambda node, inputs: np.maximum.reduce(np.broadcast_arrays(*inputs)),
    "Min": lambda node, inputs: np.minimum.reduce(np.broadcast_arrays(*inputs)),
    "Concat": lambda node, inputs: np.concatenate(inputs, _attribute(node, "axis", 0)),
    "Gather": lambda node, inputs: np.take(inputs[0], inputs[1], _attribute(node, "axis", 0)),
    "Reshape": lambda node, inputs: inputs[0].reshape(inputs[1]),
    "ReduceProd": lambda node, inputs: np.prod(inputs[0], keepdims=True),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def known(graph: Any) -> dict[str, Integers]:
    """Small arrays of integers of a graph by name: those it stores, and those it computes.

    Args:
        graph: An onnx.GraphProto; its nodes are in the order in which they run.
    """
    values: dict[str, Integers] = {}
    ranks = {i.name: i.type.tensor_type.shape.dim for i in graph.input}
    _keep(values, ((tensor.name, tensor) for tensor in graph.initializer))
    for node in graph.node:
        if node.op_type == "Constant":
            _keep(values, ((node.output[0], a.t) for a in node.attribute if a.HasField("t")))
        elif node.op_type == "Shape" and node.input and node.input[0] in ranks:
            sizes = [max(1, size.dim_value) for size in ranks[node.input[0]]]
            values[node.output[0]] = np.array(sizes[:_MOST], np.int64)
        elif node.op_type in _OPERATIONS and all(name in values for name in node.input):
            _compute(values, node)
    return values


def _keep(values: dict[str, Integers], tensors: Iterable[tuple[str, Any]]) -> None:
    from onnx import numpy_helper

    for name, tensor in tensors:
        small = len(tensor.dims) <= 2 and all(0 <= size <= _MOST for size in tensor.dims)
        if small and tensor.data_type in (_INT32, _INT64) and tensor.data_location != 1:
            try:
                array = numpy_helper.to_array(tensor).astype(np.int64)
            except (ValueError, TypeError):
                continue  # it has not the bytes of its shape, and a runtime says so
            if array.size <= _MOST:
                values[name] = array


def _compute(values: dict[str, Integers], node: Any) -> None:
    try:
        with np.errstate(all="ignore"):
            value = _OPERATIONS[node.op_type](node, [values[name] for name in node.input])
        array = np.asarray(value).astype(np.int64)
    except (ValueError, IndexError, TypeError, OverflowError, MemoryError):
        return  # a runtime says what is wrong with it
    if array.size <= _MOST:
        values[node.output[0]] = array
