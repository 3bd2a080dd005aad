"""Graphs of fixed shapes in which every value between the nodes is a code of 16 bits.

An NPU computes what lies between two codes in whole numbers; a float between them is an island that
it leaves, or computes in 16-bit floats where it has them. Each node gets QuantizeLinear behind it
and DequantizeLinear before its readers, with a range per tensor that was seen on text; what only
moves values keeps their codes, and the cache holds codes from one call to the next. Scores of a
softmax keep what can weigh anything: a position that is hidden gets the lowest code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna._util.interpreter import module_command
from kanna._util.processes import run
from kanna._util.progress import Progress
from kanna.errors import KannaError
from kanna.formats.onnx import node_order
from kanna.formats.onnx.element_types import element_types
from kanna.formats.onnx.qdq import ROOM, ActivationRange
from kanna.formats.onnx.static_shapes.positions import HIDDEN

_UINT16 = 4
"""Of onnx.TensorProto."""
_MOST = (1 << 16) - 1
_KNOWN = {
    "Sigmoid": ActivationRange(2.0**-16, 0),
    "Softmax": ActivationRange(2.0**-16, 0),
    "Tanh": ActivationRange(2.0**-15, 1 << 15),
}
"""Operators whose outputs are known, with the ranges that Qualcomm's compiler asks for."""
_MOVES = {"Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move values: what they give has the codes of what they read."""
_CODED = {"QuantizeLinear", "DequantizeLinear"}
_NEGLIGIBLE = 17.0
"""Nats below the best score of a row: its weight is 4e-8."""
_Scales = tuple[str, str]
"""Initializers of a scale and of the code of 0."""


@dataclass(slots=True)
class SeenValues:
    """What a tensor was seen to hold.

    Attributes:
        low: The lowest value.
        high: The highest.
        faintest: The lowest of the largest values of rows.
    """

    low: float = np.inf
    high: float = -np.inf
    faintest: float = np.inf

    def add(self, values: NDArray[Any]) -> None:
        """Take values into account, [..., columns]."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self.faintest = min(self.faintest, float(values.max(axis=-1).min()))

    def limits(self) -> ActivationRange:
        """The range of a tensor, with room for other text."""
        return ActivationRange.of(ROOM * self.low, ROOM * self.high)

    def score_limits(self) -> ActivationRange:
        """The range of the scores of a softmax: what lies far below the best weighs nothing."""
        room = (ROOM - 1) * max(abs(self.faintest), abs(self.high))
        return ActivationRange.of(self.faintest - room - _NEGLIGIBLE, self.high + room)


def watched(model: Any) -> dict[str, str]:
    """The floats of a graph whose ranges have to be seen, each by the name it is ranged by.

    What is written to a cache is seen as what the cache holds then, by the name of that input.
    """
    types = element_types(model.graph)
    known = {*_KNOWN, *_MOVES, *_CODED, "Where"}
    return {
        output: node.input[0] if node.op_type == "ScatterND" else output
        for node in model.graph.node
        if node.op_type not in known
        for output in node.output
        if output and types[output] == "float"
    }


def write(folder: Path, scratch: Path, ids: NDArray[np.int64] | None, progress: Progress) -> None:
    """Put codes between the nodes of both graphs of a folder, in a process of its own.

    Args:
        folder: A complete folder of fixed shapes, its products in codes.
        scratch: Folder for what is handed to the process.
        ids: Calibration text, [windows, tokens]; None: codes that stand for nothing, to see their
            room.
        progress: Where progress is reported.

    Raises:
        KannaError: The process failed; with its last line.
    """
    feeds = scratch / "chunks.npy"
    if ids is not None:
        np.save(feeds, ids)
    named = str(feeds) if ids is not None else ""
    task = json.dumps({"folder": str(folder), "feeds": named})
    progress.start("quantize activations", None, "graphs")
    try:
        done = run(module_command("kanna.formats.onnx.activation_worker", task))
    finally:
        progress.finish()
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise KannaError(
            f"the activations of {folder.name} could not be quantized: {lines[-1]}",
            todo="take the preset without -full",
        )


def encode(model: Any, seen: Mapping[str, SeenValues], read: Callable[[Any], NDArray[Any]]) -> None:
    """Put codes between the nodes of a graph, in place.

    Args:
        model: onnx.ModelProto of fixed shapes, its products in codes already.
        seen: By the names that `watched` gives.
        read: The values of an initializer.
    """
    _ActivationCoder(model, seen, read).run()


class _ActivationCoder:
    """What is known of a graph while codes are put into it."""

    def __init__(
        self, model: Any, seen: Mapping[str, SeenValues], read: Callable[[Any], NDArray[Any]]
    ) -> None:
        graph = self._graph = model.graph
        self._seen, self._read = seen, read
        self._types = element_types(graph)
        self._held = {t.name: t for t in graph.initializer}
        self._outputs = {o.name: o for o in graph.output}
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}
        self._coded: dict[str, str] = {}
        """The name under which a float is read once it went through codes."""
        self._scales: dict[str, _Scales] = {}
        self._scores = {n.input[0] for n in graph.node if n.op_type == "Softmax"}
        # Any score that it is added to gets the lowest code.
        self._hidden = min(
            (-_MOST * seen[name].score_limits().scale for name in self._scores), default=HIDDEN
        )
        self._embedded = _embedding_parts(graph, self._types)

    def run(self) -> None:
        """Code every float but the parts of an embedding and the logits that are given at last."""
        graph = self._graph
        quantized = {n.output[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
                source = quantized[node.input[0]].input[0]
                for name in (source, node.output[0]):
                    self._coded[name] = node.output[0]
                    self._scales[name] = (node.input[1], node.input[2])
            elif node.op_type == "DequantizeLinear":
                self._coded[node.output[0]] = node.output[0]
        for given in graph.input:
            if given.name in self._seen:
                given.type.tensor_type.elem_type = _UINT16
                self._scales[given.name] = self._new_scales(
                    given.name, self._seen[given.name].limits()
                )
        for node in list(graph.node):
            self._add(node)
        ordered = node_order.needed(self._nodes, list(self._outputs))
        needed = {name for node in ordered for name in node.input}
        kept = [t for t in (*graph.initializer, *self._added.values()) if t.name in needed]
        for part, values in (("node", ordered), ("initializer", kept)):
            del getattr(graph, part)[:]
            getattr(graph, part).extend(values)
        del graph.value_info[:]

    def _add(self, node: Any) -> None:
        """Append a node, and the codes of what it gives."""
        name = node.output[0]
        if node.op_type == "ScatterND":
            self._add_cache(node)
            return
        is_float = node.op_type not in _CODED and self._types[name] == "float"
        if is_float and name not in self._embedded:
            for i, given in enumerate(node.input):
                if self._types.get(given) == "float" and given not in self._embedded:
                    node.input[i] = self._read_as(given, hides=node.op_type == "Where")
        self._nodes.append(node)
        for i, output in enumerate(node.output if is_float else ()):
            if output and output not in self._embedded and output not in self._coded:
                self._code_output(node, i)

    def _code_output(self, node: Any, index: int) -> None:
        """Append the codes of one of the floats that a node gives."""
        name = node.output[index]
        scales, exact = self._scales_of(node, name), name
        if name in self._outputs:
            node.output[index] = exact = f"{name}_exact"
        output = name if name in self._outputs else f"{name}_coded"
        self._step("DequantizeLinear", self._quantized(exact, scales), scales, output)
        self._scales[name], self._coded[name] = scales, output

    def _scales_of(self, node: Any, name: str) -> _Scales:
        if node.op_type in _MOVES:
            return next(self._scales[given] for given in node.input if given in self._scales)
        if node.op_type == "Where":
            return self._new_scales(name, ActivationRange.of(self._hidden, 0.0))
        if name in self._scores:
            return self._new_scales(name, self._seen[name].score_limits())
        return self._new_scales(name, _KNOWN.get(node.op_type) or self._seen[name].limits())

    def _add_cache(self, node: Any) -> None:
        """States scattered into a cache, both in its codes: they keep them."""
        past, present = node.input[0], node.output[0]
        scales = self._scales[past]
        states = self._quantized(self._read_as(node.input[2]), scales, f"{node.name}_codes")
        node.input[2] = self._step("DequantizeLinear", states, scales, f"{node.name}_coded")
        node.input[0] = self._step("DequantizeLinear", past, scales, f"{past}_coded")
        node.output[0] = f"{present}_exact"
        self._nodes.append(node)
        self._quantized(node.output[0], scales, present)
        self._outputs[present].type.tensor_type.elem_type = _UINT16
        self._coded[present] = self._step("DequantizeLinear", present, scales, f"{present}_coded")
        self._scales[present] = self._scales[self._coded[present]] = scales

    def _read_as(self, name: str, *, hides: bool = False) -> str:
        """The name under which a node reads a float.

        Args:
            name: The float.
            hides: Whether it is one of the two values of a mask.
        """
        if name not in self._coded and name in self._held:
            values = np.asarray(self._read(self._held[name]), np.float32)
            own = ActivationRange.of(float(values.min()), float(values.max()))
            if hides:
                own = ActivationRange.of(self._hidden, 0.0)
                values = np.where(values <= HIDDEN, np.float32(self._hidden), values)
            codes = np.clip(np.rint(values / np.float32(own.scale)) + own.zero, 0, _MOST)
            scales = self._new_scales(name, own)
            self._constant(f"{name}_codes", codes.astype(np.uint16))
            output = self._step("DequantizeLinear", f"{name}_codes", scales, f"{name}_coded")
            self._coded[name] = output
            self._scales[name] = scales
        coded = self._coded[name]
        if name in self._scales:
            self._scales[coded] = self._scales[name]
        return coded

    def _constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self._added[name] = numpy_helper.from_array(array, name)
        return name

    def _new_scales(self, name: str, own: ActivationRange) -> _Scales:
        return (
            self._constant(f"{name}_scale", np.array(own.scale, np.float32)),
            self._constant(f"{name}_zero_point", np.array(own.zero, np.uint16)),
        )

    def _quantized(self, name: str, scales: _Scales, output: str = "") -> str:
        return self._step("QuantizeLinear", name, scales, output or f"{name}_codes")

    def _step(self, operator: str, name: str, scales: _Scales, output: str) -> str:
        from onnx import helper

        inputs, title = [name, *scales], f"{output}_{operator}"
        self._nodes.append(helper.make_node(operator, inputs, [output], title))
        return output


def _embedding_parts(graph: Any, types: Mapping[str, str]) -> set[str]:
    """What is multiplied into the rows of an embedding of int8: codes as floats, and scales."""
    made = {n.output[0]: n for n in graph.node}
    codes = {
        n.output[0] for n in graph.node if n.op_type == "Cast" and types.get(n.input[0]) == "int8"
    }
    products = [n for n in graph.node if n.op_type == "Mul" and codes.intersection(n.input)]
    return {name for node in products for name in node.input if name in made}
