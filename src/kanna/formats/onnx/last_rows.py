"""A decoder's graph whose head reads the last rows alone, see `formats/kept_rows.py`."""

from __future__ import annotations

from typing import Any

from kanna.formats.kept_rows import KEPT

_TOKENS = 1
"""The axis of tokens in what a head reads: [batch, tokens, width]."""
_END = (1 << 63) - 1
_EACH_ALONE = ("Add", "Cast", "Div", "Mul", "Tanh")
"""Operations that compute every logit from one other: scales, caps and types."""
_PRODUCTS = ("MatMul", "MatMulInteger", "MatMulNBits")
_MOST_STEPS = 16


def keep_last_rows(model: Any, logits: str) -> bool:
    """Let the head read the last rows alone; False where the graph has none that is known.

    Args:
        model: The protobuf, which is changed.
        logits: The name of its output.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    path = _head(makers, logits)
    if path is None:
        return False
    head, after = path[-1], {name for node in path for name in node.output}
    starts, ends, axes, rows = (f"{KEPT}/{part}" for part in ("starts", "ends", "axes", "rows"))
    graph.input.append(helper.make_tensor_value_info(KEPT, TensorProto.INT64, [1]))
    for name, number in ((ends, _END), (axes, _TOKENS)):
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [number]))
    at = next(i for i, node in enumerate(graph.node) if head.output[0] in node.output)
    graph.node.insert(
        at, helper.make_node("Slice", [head.input[0], starts, ends, axes], [rows], name=rows)
    )
    graph.node.insert(at, helper.make_node("Neg", [KEPT], [starts], name=starts))
    head.input[0] = rows
    # onnxruntime shares buffers of shapes with the same names: these have rows of their own now.
    for value in [*graph.value_info, *graph.output]:
        if value.name in after and len(value.type.tensor_type.shape.dim) > _TOKENS:
            value.type.tensor_type.shape.dim[_TOKENS].dim_param = KEPT
    return True


def _head(makers: dict[str, Any], logits: str) -> list[Any] | None:
    """The nodes from an output back to the product with the vocabulary's matrix, which is last."""
    node, path = makers.get(logits), list[Any]()
    # A graph of a stranger may go round in a circle.
    while node is not None and len(path) < _MOST_STEPS:
        path.append(node)
        if node.op_type in _PRODUCTS:
            return path
        made = [makers[name] for name in node.input if name in makers]
        made = [maker for maker in made if maker.op_type != "Constant"]
        node = made[0] if len(made) == 1 and node.op_type in _EACH_ALONE else None
    return None
