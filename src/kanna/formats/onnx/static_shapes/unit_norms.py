"""Norms by the length of a vector, an operator that NPUs have.

Spelled out, the mean of squares has one range for all tokens, and 16 bits over that of the largest
leave the others nothing. x / √(mean x²) is √n · x / |x|; what is added below the root is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna.formats.onnx import node_order

_SPELLED = ("Sqrt", "Add", "ReduceMean", "Mul")
"""From what divides back to the squares."""


def shorten(model: Any, read: Callable[[Any], NDArray[Any]]) -> None:
    """Replace root mean square norms that are spelled out, in place.

    Args:
        model: onnx.ModelProto of fixed shapes.
        read: The values of an initializer.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    made = {n.output[0]: n for n in graph.node}
    held = {t.name: t for t in graph.initializer}
    even: set[str] = set()
    for node in list(graph.node):
        if node.op_type == "Div" and _is_norm(node, made):
            even.add(node.output[0])
            node.CopyFrom(
                helper.make_node(
                    "LpNormalization", node.input[:1], node.output, node.name, axis=-1, p=2
                )
            )
    for node in graph.node:
        if node.op_type == "Mul" and node.input[0] in even:
            name = f"{node.input[1]}_by_length"
            if name not in held:
                gain = read(held[node.input[1]]).astype(np.float32)
                held[name] = numpy_helper.from_array(gain * np.float32(len(gain) ** 0.5), name)
                graph.initializer.append(held[name])
            node.input[1] = name
    nodes = node_order.needed(graph.node, [o.name for o in graph.output])
    del graph.node[:]
    graph.node.extend(nodes)


def _is_norm(division: Any, made: dict[str, Any]) -> bool:
    """Whether a division is by the root of the mean square of what it divides."""
    name = division.input[1]
    inputs: list[str] = []
    for operator in _SPELLED:
        node = made.get(name)
        if node is None or node.op_type != operator:
            return False
        inputs, name = list(node.input), node.input[0]
    return inputs == [division.input[0]] * 2
