"""A decoder's graph whose head reads the last rows alone, see `formats/kept_rows.py`.

openvino-genai cuts graphs at the same place when it opens them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.formats.kept_rows import KEPT

_RANK = 3
"""Axes of what a head reads: [batch, tokens, width], or [tokens, 1, width] of paged attention."""
_END = np.iinfo(np.int64).max
_EACH_ALONE = ("Add", "Convert", "Divide", "Multiply", "Tanh")
"""Operations that compute every logit from one other: scales, caps and types."""


def keep_last_rows(openvino: Any, graph: Any, logits: str, *, axis: int = 1) -> bool:
    """Let the head read the last rows alone; False where the graph has none that is known.

    Args:
        openvino: The module.
        graph: As OpenVINO read it, which is changed.
        logits: The name of its output.
        axis: That of tokens in what the head reads.
    """
    product = _head(graph.output(logits).get_node())
    if product is None:
        return False
    ops = openvino.opset13
    read = product.input(0)
    kept = ops.parameter([1], np.int64, name=KEPT)
    kept.output(0).set_names({KEPT})
    end, step, axes = (ops.constant(np.array([n], np.int64)) for n in (_END, 1, axis))
    rows = ops.slice(read.get_source_output(), ops.negative(kept), end, step, axes)
    read.replace_source_output(rows.output(0))
    graph.add_parameters([kept])
    graph.validate_nodes_and_infer_types()
    return True


def _head(result: Any) -> Any | None:
    """The product of all rows with the vocabulary's matrix that an output comes from."""
    node = result.input_value(0).get_node()
    while node.get_type_name() in _EACH_ALONE:
        made = [maker for maker in _makers(node) if not _constant(maker)]
        if len(made) != 1:
            return None
        node = made[0]
    if node.get_type_name() != "MatMul":
        return None
    rank = node.input_value(0).get_partial_shape().rank
    return node if rank.is_static and rank.get_length() == _RANK else None


def _makers(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]


def _constant(node: Any) -> bool:
    kind = node.get_type_name()
    return kind == "Constant" or (kind == "Convert" and _constant(_makers(node)[0]))
