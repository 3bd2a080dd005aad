"""What products of a graph read: floats, floats that they round in groups, or codes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from kanna.formats.onnx import constants
from kanna.plan import onnx as presets

_BITS = {2: 8, 3: 8, 4: 16, 5: 16}
"""Of the integers of onnx.TensorProto that codes of activations have."""
_PART = re.compile(r"(?:.*/)?(\w+)/MatMul", re.ASCII)
"""The model's part in the name of a node: `down_proj` of `/model/layers.0/mlp/down_proj/MatMul`."""


def code_bits(graph: Any) -> int | None:
    """Bits of most codes of activations; None where no activation has a code."""
    types = {tensor.name: tensor.data_type for tensor in constants.tensors(graph)}
    bits: Counter[int] = Counter()
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            bits[8] += 1
        elif node.op_type == "QuantizeLinear":
            zero = node.input[2] if len(node.input) > 2 else ""
            bits[_BITS.get(types.get(zero, 0), 8)] += 1
    return bits.most_common(1)[0][0] if bits else None


def rounded_inputs(graph: Any) -> str:
    """`inputs of products rounded to 8 bits, but not of down_proj`; "" where none is rounded."""
    rounded: dict[str, set[bool]] = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            level = next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
            part = _PART.fullmatch(node.name)
            levels = rounded.setdefault(part[1] if part else "others", set())
            levels.add(level == presets.INT8)
    if not any(True in levels for levels in rounded.values()):
        return ""
    floats = [part for part, levels in rounded.items() if levels == {False}]
    some = [f"some layers of {part}" for part, levels in rounded.items() if len(levels) == 2]
    but = f", but not of {', '.join([*floats, *some])}" if floats or some else ""
    return f"inputs of products rounded to 8 bits{but}"
