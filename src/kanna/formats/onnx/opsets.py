"""The opset of a graph: what it is, and the same graph in an older one where that says the same."""

from __future__ import annotations

from typing import Any

from kanna.formats.onnx.element_types import element_types

_STANDARD = ("", "ai.onnx")
PICTURES = ("AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool")
"""Standard operators that read pictures, channels first."""


def version(model: Any) -> int:
    """The opset of the standard operators of a graph, an onnx.ModelProto."""
    return max((o.version for o in model.opset_import if o.domain in _STANDARD), default=1)


def lower(model: Any, newest: int) -> list[str]:
    """Say that a graph is in an older opset, where every operator of it means the same there.

    Two versions of an operator mean the same when their inputs, outputs and attributes are alike
    and the older one has the element type that is read.

    Args:
        model: onnx.ModelProto; changed only where nothing stands against it.
        newest: The opset.

    Returns:
        Operators that stand against it, each with the opset that it is of; [] when it is done.
    """
    now = version(model)
    if now <= newest:
        return []
    types = element_types(model.graph)
    against = {
        f"{node.op_type} of {types.get(node.input[0], 'float') if node.input else 'nothing'}"
        for node in model.graph.node
        if node.domain in _STANDARD and not _means_the_same(node, types, now, newest)
    }
    if not against:
        for entry in model.opset_import:
            if entry.domain in _STANDARD:
                entry.version = newest
    return sorted(against)


def _means_the_same(node: Any, types: dict[str, str], now: int, newest: int) -> bool:
    from onnx import defs

    if not defs.has(node.op_type, now):
        return True  # onnxruntime's own, which it keeps among the standard ones
    if not defs.has(node.op_type, newest):
        return False
    ours, theirs = (defs.get_schema(node.op_type, opset) for opset in (now, newest))
    if ours.since_version == theirs.since_version:
        return True
    if any(_shape(ours, part) != _shape(theirs, part) for part in ("inputs", "outputs")):
        return False
    if ours.attributes.keys() != theirs.attributes.keys():
        return False
    for given, formal in zip(node.input, theirs.inputs, strict=False):
        kind = f"tensor({types.get(given, 'float')})"
        if given and formal.types and kind not in formal.types:
            return False
    return True


def _shape(schema: Any, part: str) -> list[str]:
    return [formal.name for formal in getattr(schema, part)]
