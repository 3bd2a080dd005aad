"""Norms that only onnxruntime knows, in standard operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.formats.onnx.static_shapes.node_list import NodeList

_ROOT = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "RMSNormalization")
"""Norms by the root of the mean square alone."""
NORMS = (*_ROOT, "SkipLayerNormalization")


def spell_out(node: Any, nodes: NodeList) -> None:
    """Append the nodes that do what a norm does; its outputs keep their names."""
    name, states, rest = node.name, node.input[0], list(node.input[1:])
    if node.op_type.startswith("Skip"):
        total = node.output[3] if len(node.output) > 3 else ""
        states = nodes.add("Add", [states, rest.pop(0)], f"{name}/skip", output=total)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    if node.op_type not in _ROOT:
        nodes.add(
            "LayerNormalization",
            [states, *rest[:2]],
            name,
            output=node.output[0],
            axis=-1,
            epsilon=epsilon,
        )
        return
    square = nodes.add("Mul", [states, states], f"{name}/square")
    mean = nodes.add("ReduceMean", [square, nodes.integers(-1)], f"{name}/mean", keepdims=1)
    above = nodes.add("Add", [mean, nodes.constant([epsilon], np.float32)], f"{name}/above")
    root = nodes.add("Sqrt", [above], f"{name}/root")
    even = nodes.add("Div", [states, root], f"{name}/even")
    nodes.add("Mul", [even, rest[0]], f"{name}/gain", output=node.output[0])
