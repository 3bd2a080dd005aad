"""QDQ nodes as NPUs take them: codes of activations and of weights, each beside its scale.

Every product reads activations of 16 bits, asymmetric with one range per tensor, and gives them;
its weights are symmetric with a scale per column. Scales of weights are searched: of several steps
below the one that holds the largest value, that of the least error on what the product reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.formats.onnx import node_order, ranges
from kanna.formats.onnx.float_graph import FloatGraph
from kanna.model import F32

_INT8, _INT4 = 3, 22
"""Types of onnx.TensorProto."""
_ACTIVATION = (1 << 16) - 1
_TRIED = {8: np.linspace(0.9, 1.0, 3), 4: np.linspace(0.5, 1.0, 26)}
"""Shares of the step that holds the largest value, by bits of a weight."""
_COLUMNS = 1024
"""Columns that are searched at once."""


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


def weight_scales(weight: F32, moments: F32, bits: int) -> F32:
    """The scale of each column, f32 [out].

    Args:
        weight: f32 [in, out].
        moments: Mean square of every input, f32 [in].
        bits: Of a code, whose lowest one is not used.
    """
    most = 2 ** (bits - 1) - 1
    scales = np.empty(weight.shape[1], np.float32)
    for start in range(0, weight.shape[1], _COLUMNS):
        part = weight[:, start : start + _COLUMNS]
        full = np.maximum(np.abs(part).max(axis=0), 1e-12) / most
        shares = _TRIED[bits]
        steps = [(full * share).astype(np.float32) for share in shares]
        errors = [moments @ np.square(_rounded(part, step, most) - part) for step in steps]
        scales[start : start + _COLUMNS] = full * shares[np.argmin(errors, axis=0)]
    return scales


def _rounded(weight: F32, scale: F32, most: int) -> F32:
    return np.clip(np.round(weight / scale), -most, most) * scale


def quantize(
    graph: FloatGraph, products: Sequence[Any], feeds: Sequence[Mapping[str, Any]], bits: int
) -> Any:
    """The graph with QDQ nodes around its products; the head, which an embedding may read, in 8.

    Args:
        graph: The float graph, whose model is changed.
        products: Those to quantize; other nodes than MatMul stay as they are.
        feeds: Calibration text.
        bits: Of a weight.
    """
    chosen = [node for node in products if node.op_type == "MatMul"]
    inputs = {node.input[0] for node in chosen}
    names = sorted(inputs | {node.output[0] for node in chosen})
    squares: dict[str, list[F32]] = {name: [] for name in inputs}

    def watched() -> Iterator[dict[str, F32]]:
        for batch in graph.run(feeds, names):
            for name in inputs:
                squares[name].append(np.square(batch[name]).mean(axis=0))
            yield batch

    limits = ranges.ranges(watched(), "minmax")
    weights = {node.input[1]: graph.get(node.input[1]) for node in chosen}
    insert(
        graph.model,
        chosen,
        limits=limits,
        moments={name: np.mean(seen, axis=0) for name, seen in squares.items()},
        weights=weights,
        bits={name: 8 if name.startswith("lm_head") else bits for name in weights},
    )
    return graph.model


def insert(
    model: Any,
    products: Sequence[Any],
    *,
    limits: Mapping[str, tuple[float, float]],
    moments: Mapping[str, F32],
    weights: Mapping[str, F32],
    bits: Mapping[str, int],
) -> None:
    """Put QDQ nodes around matrix products, in place.

    Args:
        model: onnx.ModelProto with its values loaded.
        products: MatMul nodes of it.
        limits: Lowest and highest value of what each reads and gives, by tensor.
        moments: Mean square of every input of what each reads, f32 [in].
        weights: f32 [in, out] by initializer.
        bits: Of the codes of each initializer, 4 or 8.
    """
    graph = _Inserter(model, limits)
    for node in products:
        name = node.input[1]
        graph.weight(name, weights[name], moments[node.input[0]], bits[name])
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

    def weight(self, name: str, values: F32, moments: F32, bits: int) -> None:
        """Codes and scales of a matrix, and the node that multiplies them."""
        from onnx import helper

        if name in self._done:
            return
        self._done.add(name)
        most = 2 ** (bits - 1) - 1
        scales = weight_scales(values, moments, bits)
        codes = np.clip(np.round(values / scales), -most, most).astype(np.int8)
        self._model.graph.initializer.append(
            helper.make_tensor(
                f"{name}_quantized",
                _INT8 if bits == 8 else _INT4,
                codes.shape,
                codes.tobytes() if bits == 8 else packed(codes),
                raw=True,
            )
        )
        scale = self._constant(f"{name}_scale", scales)
        self._nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", scale],
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


def packed(codes: Any) -> bytes:
    """int8 codes as int4, the first of two in the low half of a byte."""
    flat = codes.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).astype(np.uint8) & 15
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
