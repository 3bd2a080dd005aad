"""Bytes of what an ONNX graph computes, as far as its shapes are known before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from kanna.formats import computed_sizes
from kanna.formats.computed_sizes import NodeOutput
from kanna.formats.onnx import shape_values
from kanna.formats.onnx.constants import BITS

_LARGE = 4096
"""Elements above which a constant is no shape, and is left out of what the library looks at."""


def check(graph: Path, model: Any, stored: int) -> None:
    """Refuse a graph that asks for far more memory than its weights are; see `computed_sizes`.

    Args:
        graph: Its file.
        model: What `files.load` gave of it.
        stored: Bytes of the graph and of its weights.

    Raises:
        FormatError: It does.
    """
    import onnx

    try:
        # Without `data_prop`, by which a small graph takes all memory there is.
        inferred = onnx.shape_inference.infer_shapes(_without_values(model))
    except (RuntimeError, ValueError):
        # The library knows less than the runtime, whose process has a limit of memory.
        return
    names = {tensor.name for tensor in model.graph.initializer}
    computed_sizes.check(graph, _computed(inferred.graph, names), stored)


def _without_values(model: Any) -> Any:
    """A copy with the constants that may be shapes, and no shape that the file itself says.

    What computes such a constant is replaced by it.
    """
    import onnx
    from onnx import numpy_helper

    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    graph = model.graph
    values = shape_values.known(graph)
    bare.graph.node.extend(n for n in graph.node if not (n.output and n.output[0] in values))
    for node in bare.graph.node:
        _forget_shapes(node)
    stored = {tensor.name for tensor in graph.initializer}
    bare.graph.input.extend(i for i in graph.input if i.name not in stored)
    bare.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items())
    for tensor in graph.initializer:
        if tensor.name in values:
            continue
        if tensor.data_location == 1 or prod(tensor.dims) > _LARGE:
            info = bare.graph.input.add(name=tensor.name)
            info.type.tensor_type.elem_type = tensor.data_type
            for size in tensor.dims:
                info.type.tensor_type.shape.dim.add(dim_value=size)
        else:
            bare.graph.initializer.append(tensor)
    return bare


def _forget_shapes(node: Any) -> None:
    for inner in _inner(node):
        del inner.value_info[:]
        for other in inner.node:
            _forget_shapes(other)


def _inner(node: Any) -> Iterator[Any]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def _computed(graph: Any, constants: set[str] | None) -> Iterator[NodeOutput]:
    """What the nodes of a graph compute, in their order.

    Args:
        graph: With the shapes that were inferred.
        constants: Names of its stored constants; None of a graph inside a node, which may be run
            many times or never.
    """
    sizes = {info.name: _least_bytes(info.type.tensor_type) for info in graph.value_info}
    given = {info.name for info in graph.input} - (constants or set())
    for node in graph.node:
        graphs = list(_inner(node))
        constant = constants is not None and not graphs and not given.intersection(node.input)
        if not constant:
            given.update(node.output)
        for name in node.output:
            # A Constant is stored as it is, however large.
            if name in sizes and node.op_type != "Constant":
                yield NodeOutput(
                    name=name, operation=node.op_type, nbytes=sizes[name], constant=constant
                )
        for inner in graphs:
            yield from _computed(inner, None)


def _least_bytes(kind: Any) -> int:
    """Bytes of a tensor in which every size that is not known is 1."""
    sizes = [size.dim_value for size in kind.shape.dim if size.HasField("dim_value")]
    return prod(max(size, 0) for size in sizes) * BITS.get(kind.elem_type, 8) // 8
