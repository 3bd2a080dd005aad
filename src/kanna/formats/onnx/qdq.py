"""QDQ nodes as NPUs take them: codes of activations and of weights, each beside its scale.

Every product reads activations of 16 bits, asymmetric with one range per tensor, and gives them;
its weights are symmetric with a scale per column (kanna.methods.channel_codes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.encodings.grouped.channel import RowCodes
from kanna.formats.onnx import node_order, ranges
from kanna.formats.onnx.float_graph import FloatGraph
from kanna.methods import channel_codes
from kanna.methods.channel_codes import ColumnCodes
from kanna.methods.hessian import SecondMoment
from kanna.model import F32

_INT8, _INT4 = 3, 22
"""Types of onnx.TensorProto."""
_ACTIVATION = (1 << 16) - 1
ROOM = 1.5
"""What a range has beyond the values that were seen: other text reaches further, and a value that
is cut off costs far more than steps of 16 bits that are half as wide again."""
EXACT_PRODUCTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
"""Of a session on the CPU, which else rounds what such a product reads to 8 bits."""
SHRINK = 0.2
"""Shrinkage of a second moment that no held-out text has chosen."""
_MOMENTS = 1 << 30
"""Bytes of second moments in memory at once; where more are needed, the text is read again."""


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """What 16 bits stand for.

    Attributes:
        scale: Of a code.
        zero: The code of 0.
    """

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> ActivationRange:
        """The range that holds everything from `low` to `high`, and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / _ACTIVATION or 1.0
        return cls(scale, round(-low / scale))


def widths(products: Sequence[Any], bits: int) -> dict[str, int]:
    """Bits of every matrix by its initializer: so many, but 8 for the head and its embedding.

    Args:
        products: Nodes; other ones than MatMul stay as they are.
        bits: Of a weight.
    """
    names = [node.input[1] for node in products if node.op_type == "MatMul"]
    return {name: 8 if name.startswith("lm_head") else bits for name in names}


def quantize(graph: FloatGraph, feeds: Sequence[Mapping[str, Any]], bits: Mapping[str, int]) -> Any:
    """The graph with QDQ nodes around its products.

    Args:
        graph: The float graph, whose model is changed.
        feeds: Calibration text; none: ranges and codes stand for nothing, and take their room.
        bits: Of the codes of a matrix, by its initializer; others stay as they are.
    """
    chosen = [n for n in graph.products((), ()) if n.op_type == "MatMul" and n.input[1] in bits]
    limits: dict[str, tuple[float, float]] = {}
    weights: dict[str, ColumnCodes] = {}
    for part in _within_memory(graph, chosen) if feeds else ():
        moments: dict[str, F32] = {}
        limits |= ranges.ranges(_watched(graph, feeds, part, moments), "minmax")
        for node in part:
            name = node.input[1]
            if name not in weights:
                weights[name] = _codes(graph.get(name), moments[node.input[0]], bits[name])
    if not feeds:
        limits = dict.fromkeys((t for n in chosen for t in (n.input[0], n.output[0])), (-1.0, 1.0))
        weights = {name: _blank(graph.values[name].dims) for name in bits}
    insert(
        graph.model,
        chosen,
        limits={name: (ROOM * low, ROOM * high) for name, (low, high) in limits.items()},
        weights=weights,
        bits=bits,
    )
    return graph.model


def _codes(weight: F32, second: F32, bits: int) -> ColumnCodes:
    """Codes of a matrix f32 [in, out] under the mean of x xᵀ over its inputs, f32 [in, in]."""
    moment = SecondMoment(lambda: [second], shrink=SHRINK)
    return channel_codes.choose(weight, second.diagonal(), moment, RowCodes(bits=bits))


def _blank(shape: Sequence[int]) -> ColumnCodes:
    """Codes that stand for nothing, of a matrix [in, out]."""
    return ColumnCodes(np.zeros(tuple(shape), np.int8), np.ones(shape[1], np.float32))


def _within_memory(graph: FloatGraph, products: Sequence[Any]) -> list[list[Any]]:
    """Products in parts whose inputs have second moments of `_MOMENTS` bytes at most."""
    parts: list[list[Any]] = [[]]
    inputs: dict[str, int] = {}
    for node in products:
        nbytes = 4 * graph.values[node.input[1]].dims[0] ** 2
        if node.input[0] not in inputs and sum(inputs.values()) + nbytes > _MOMENTS and parts[-1]:
            parts.append([])
            inputs = {}
        inputs[node.input[0]] = nbytes
        parts[-1].append(node)
    return parts


def _watched(
    graph: FloatGraph,
    feeds: Sequence[Mapping[str, Any]],
    products: Sequence[Any],
    moments: dict[str, F32],
) -> Iterator[dict[str, F32]]:
    """What products read and give, of every feed; `moments` holds the mean of x xᵀ at the end."""
    inputs = {node.input[0] for node in products}
    rows = 0
    for batch in graph.run(feeds, sorted(inputs | {node.output[0] for node in products})):
        for name in inputs:
            square = batch[name].T @ batch[name]
            moments[name] = moments[name] + square if name in moments else square
        rows += len(next(iter(batch.values())))
        yield batch
    for name in inputs:
        moments[name] /= np.float32(max(1, rows))


def insert(
    model: Any,
    products: Sequence[Any],
    *,
    limits: Mapping[str, tuple[float, float]],
    weights: Mapping[str, ColumnCodes],
    bits: Mapping[str, int],
) -> None:
    """Put QDQ nodes around matrix products, in place.

    Args:
        model: onnx.ModelProto with its values loaded.
        products: MatMul nodes of it.
        limits: Lowest and highest value of what each reads and gives, by tensor.
        weights: Codes by initializer.
        bits: Of the codes of each initializer, 4 or 8.
    """
    graph = _Inserter(model, limits)
    for node in products:
        name = node.input[1]
        graph.weight(name, weights[name], bits[name])
        node.input[0], node.input[1] = graph.activation(node.input[0]), f"{name}_dequantized"
        if node.output[0] in {o.name for o in model.graph.output}:
            continue  # logits stay as they are
        plain = node.output[0]
        node.output[0] = f"{plain}_exact"
        graph.activation(node.output[0], like=plain, output=plain)
    graph.finish()


class _Inserter:
    """Nodes and initializers that are added to a graph."""

    def __init__(self, model: Any, limits: Mapping[str, tuple[float, float]]) -> None:
        self._model, self._limits = model, limits
        self._nodes: list[Any] = []
        self._done: set[str] = set()

    def _constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self._model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def activation(self, name: str, *, like: str = "", output: str = "") -> str:
        """The tensor `name` after its codes; the nodes are made the first time."""
        from onnx import helper

        output = output or f"{name}_dequantized"
        if name in self._done:
            return output
        self._done.add(name)
        own = ActivationRange.of(*self._limits[like or name])
        steps = [
            self._constant(f"{name}_scale", np.array(own.scale, np.float32)),
            self._constant(f"{name}_zero_point", np.array(own.zero, np.uint16)),
        ]
        codes = f"{name}_quantized"
        self._nodes += [
            helper.make_node("QuantizeLinear", [name, *steps], [codes], f"{name}_QuantizeLinear"),
            helper.make_node(
                "DequantizeLinear", [codes, *steps], [output], f"{name}_DequantizeLinear"
            ),
        ]
        return output

    def weight(self, name: str, chosen: ColumnCodes, bits: int) -> None:
        """Codes and scales of a matrix, and the node that multiplies them."""
        from onnx import helper

        if name in self._done:
            return
        self._done.add(name)
        codes = chosen.codes
        self._model.graph.initializer.append(
            helper.make_tensor(
                codes_name(name),
                _INT8 if bits == 8 else _INT4,
                codes.shape,
                codes.tobytes() if bits == 8 else packed(codes),
                raw=True,
            )
        )
        scale = self._constant(f"{name}_scale", chosen.scales)
        self._nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [codes_name(name), scale],
                [f"{name}_dequantized"],
                f"{name}_DequantizeLinear",
                axis=1,
            )
        )

    def finish(self) -> None:
        """Put the nodes in the order in which they run."""
        graph = self._model.graph
        ordered = node_order.needed([*graph.node, *self._nodes], [o.name for o in graph.output])
        del graph.node[:]
        graph.node.extend(ordered)


def codes_name(initializer: str) -> str:
    """What the codes of a matrix are called, by its initializer in the float graph."""
    return f"{initializer}_quantized"


def packed(codes: Any) -> bytes:
    """int8 codes as int4, the first of two in the low half of a byte."""
    flat = codes.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).astype(np.uint8) & 15
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
