"""Element types of the values of a graph, found without its shapes.

onnx's own inference stops at operators of com.microsoft; the operators of decoders need one rule
each at most.
"""

from __future__ import annotations

from typing import Any

_BOOLS = {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
_LENGTHS = {"Shape", "Size"}
_OF_INPUT = {
    "DequantizeLinear": 1,
    "GatherBlockQuantized": 2,
    "QuantizeLinear": 2,
    "Where": 1,
}
"""Which input has the type of the output, where it is not the first."""


def element_types(graph: Any) -> dict[str, str]:
    """The type of every value of a graph, such as `float` or `int8`, by name.

    Args:
        graph: onnx.GraphProto, its nodes in the order in which they run.
    """
    from onnx import TensorProto, helper

    def name(number: int) -> str:
        return TensorProto.DataType.Name(number).lower()

    types = {t.name: name(t.data_type) for t in graph.initializer}
    types |= {i.name: name(i.type.tensor_type.elem_type) for i in graph.input}
    for node in graph.node:
        kind = types.get(_source(node), "float")
        if node.op_type == "Cast":
            kind = name(helper.get_node_attr_value(node, "to"))
        elif node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            kind = name(value.data_type) if value is not None else "float"
        elif node.op_type in _BOOLS:
            kind = "bool"
        elif node.op_type in _LENGTHS:
            kind = "int64"
        types |= dict.fromkeys((output for output in node.output if output), kind)
    return types


def _source(node: Any) -> str:
    at = _OF_INPUT.get(node.op_type, 0)
    if at < len(node.input):
        return node.input[at]
    return node.input[0] if node.input else ""
