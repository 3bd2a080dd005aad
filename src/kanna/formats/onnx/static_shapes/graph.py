"""A decoder's graph with every shape fixed: so many tokens in, a cache of so many positions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kanna.errors import UnsupportedError
from kanna.formats.onnx import node_order
from kanna.formats.onnx.static_shapes import norms
from kanna.formats.onnx.static_shapes.attention import COSINE, PAST_KEY, SINE, Attention
from kanna.formats.onnx.static_shapes.node_list import NodeList
from kanna.formats.onnx.static_shapes.positions import PAST, TOTAL

_ATTENTION = "GroupQueryAttention"
_FLOAT, _INT32 = 1, 6
"""Types of onnx.TensorProto."""
_TODO = "convert without --static"


def fixed(model: Any, *, chunk: int, context: int, names: Mapping[str, Any], size: int) -> Any:
    """The graph for `chunk` tokens a call, an onnx.ModelProto that shares `model`'s external data.

    Args:
        model: The dynamic graph as onnxruntime-genai's builder makes it, its data not loaded.
        chunk: Tokens of one call.
        context: Positions of the cache.
        names: Inputs and outputs, as genai_config.json names them.
        size: Values per head.

    Raises:
        UnsupportedError: A node has no form of fixed shapes.
    """
    result = copy.deepcopy(model)
    graph = result.graph
    nodes = NodeList()
    attention = Attention(nodes, chunk, context)
    branches = _short_tables(graph, context)
    nodes.initializers += branches
    tables = {t.name: t.dims[1] for t in (*graph.initializer, *branches) if len(t.dims) == 2}
    for node in graph.node:
        if node.op_type == _ATTENTION:
            attention.spell_out(node, size, tables)
        elif node.op_type in norms.NORMS:
            norms.spell_out(node, nodes)
        elif not (node.op_type == "If" and branches):
            nodes.nodes.append(node)
    caches = {node.input[PAST_KEY] for node in graph.node if node.op_type == _ATTENTION}
    heads = _heads(graph)
    kept = node_order.needed(nodes.nodes, [o.name for o in graph.output])
    read = {name for node in kept for name in node.input}
    _refuse_dynamic(graph, read, names)
    initializers = [t for t in (*graph.initializer, *nodes.initializers) if t.name in read]
    angles = {name for node in graph.node if node.op_type == _ATTENTION for name in _tables(node)}
    for tensor in initializers:
        if tensor.name in angles:
            _cut(tensor, context)
    for part, values in (("node", kept), ("initializer", initializers)):
        del getattr(graph, part)[:]
        getattr(graph, part).extend(values)
    del graph.value_info[:]
    _name_inputs(graph, caches, names, (chunk, context, heads, size))
    return result


def _tables(node: Any) -> list[str]:
    return [name for i, name in enumerate(node.input) if i in (COSINE, SINE) and name]


def _heads(graph: Any) -> int:
    """Heads of keys, the same in every layer: a cache has one shape."""
    import onnx

    numbers = {
        onnx.helper.get_node_attr_value(node, "kv_num_heads")
        for node in graph.node
        if node.op_type == _ATTENTION
    }
    if len(numbers) != 1:
        raise UnsupportedError(
            f"the graph has attention with {', '.join(map(str, sorted(numbers))) or 'no'} heads of"
            " keys",
            expected="grouped heads, as many in every layer",
            todo=_TODO,
        )
    return numbers.pop()


def _short_tables(graph: Any, context: int) -> list[Any]:
    """The tables of angles of short texts where the graph chooses between those of two lengths."""
    import onnx

    for node in graph.node:
        if node.op_type != "If":
            continue
        edge = next(
            (
                int(n.input[1].rpartition("/")[2])
                for n in graph.node
                if n.op_type == "Greater" and n.output[0] == node.input[0]
            ),
            0,
        )
        if context > edge:
            raise UnsupportedError(
                f"the model turns all positions by other angles beyond {edge} tokens: no graph of"
                f" fixed shapes has both within {context}",
                expected=f"a context of at most {edge}",
            )
        branch = onnx.helper.get_node_attr_value(node, "else_branch")
        tensors: list[Any] = []
        for output, inner in zip(branch.output, node.output, strict=True):
            maker = next(n for n in branch.node if output.name in n.output)
            tensor = copy.deepcopy(onnx.helper.get_node_attr_value(maker, "value"))
            tensor.name = inner
            tensors.append(tensor)
        return tensors
    return []


def _refuse_dynamic(graph: Any, read: set[str], names: Mapping[str, Any]) -> None:
    """UnsupportedError where a node still reads what a graph of fixed shapes has not."""
    for key in ("attention_mask", "position_ids"):
        name = names.get(key, key)
        if name in read and any(i.name == name for i in graph.input):
            reader = next((n.name for n in graph.node if name in n.input), "a node")
            raise UnsupportedError(
                f"{reader} reads {name}, which a graph of fixed shapes has no input for",
                expected="attention alone to know of masks and positions",
                todo=_TODO,
            )


def _cut(tensor: Any, rows: int) -> None:
    """Keep the first rows of a table of angles: those of the positions that there are."""
    if tensor.dims[0] <= rows:
        return
    if tensor.data_location != tensor.EXTERNAL:
        from onnx import numpy_helper

        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:rows], tensor.name))
        return
    for entry in tensor.external_data:
        if entry.key == "length":
            entry.value = str(int(entry.value) // tensor.dims[0] * rows)
    tensor.dims[0] = rows


def _name_inputs(
    graph: Any, caches: set[str], names: Mapping[str, Any], sizes: tuple[int, int, int, int]
) -> None:
    """Inputs and outputs with their fixed shapes."""
    from onnx import helper

    chunk, context, heads, size = sizes
    cache = [1, heads, context, size]
    keyed = [i.name for i in graph.input if i.name.startswith("past")]
    assert caches <= set(keyed), "every cache of an attention is an input"
    inputs = [
        helper.make_tensor_value_info(names["input_ids"], _INT32, [1, chunk]),
        helper.make_tensor_value_info(PAST, _INT32, [1, 1]),
        helper.make_tensor_value_info(TOTAL, _INT32, [1]),
        *(helper.make_tensor_value_info(name, _FLOAT, cache) for name in keyed),
    ]
    outputs: list[Any] = []
    for output in graph.output:
        last = output.type.tensor_type.shape.dim[-1].dim_value
        shape = [1, chunk, last] if output.name == names["logits"] else cache
        outputs.append(helper.make_tensor_value_info(output.name, _FLOAT, shape))
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    graph.output.extend(outputs)
