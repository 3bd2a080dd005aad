"""Which tokens attention sees: 0 for those, else the least number, f32 [batch, 1, new, all]."""

from __future__ import annotations

import numpy as np

from kanna.formats.openvino.ir import Graph, Shape, Value

# Of half precision, in which NPUs compute: a row of nothing but infinities would be no numbers.
_LEAST = float(np.finfo(np.float16).min)
_SHAPE: Shape = (-1, 1, -1, -1)


class Masks:
    """Masks of a graph: of all tokens, and of windows of so many."""

    def __init__(self, graph: Graph, ids: Value, attended: Value) -> None:
        """Add to a graph what every mask is made of.

        Args:
            graph: The graph.
            ids: The new tokens, i64 [batch, new].
            attended: 1 for every token that counts, i64 [batch, all].
        """
        self._graph = g = graph
        total, new = (self._scalar(g.size_of(v, 1)) for v in (attended, ids))
        self._columns = g.unsqueeze(self._numbers(g.constant(0, "i64"), total), [0])
        self._rows = g.unsqueeze(self._numbers(g.binary("Subtract", total, new), total), [1])
        self._past = g.binary("LessEqual", self._columns, self._rows, result="boolean")
        self._kept = g.unsqueeze(g.convert(attended, "boolean"), [1, 2])
        self._made: dict[int, Value] = {}

    def of(self, window: int) -> Value:
        """A token sees itself and those before it; with a window, the last so many of these."""
        if window not in self._made:
            self._made[window] = self._within(window) if window else self._all()
        return self._made[window]

    def _all(self) -> Value:
        return self._chosen(self._graph.binary("LogicalAnd", self._past, self._kept))

    def _within(self, window: int) -> Value:
        """A mask in the very form from which OpenVINO reads the window.

        Where it turns attention into paged attention, it drops every mask and keeps what it knows
        of them. Here it looks for key > query - window, and then for four conditions and a slice
        (`gpt_oss_sliding_window_pattern` in its sources): conditions that are met stand there.
        """
        g = self._graph
        first = g.binary("Add", self._rows, g.constant(-window, "i64"))
        near = g.binary("Greater", self._columns, first, result="boolean")

        def both(a: Value, b: Value) -> Value:
            return g.binary("BitwiseAnd", a, b, version="opset13")

        seen = both(both(self._past, near), self._kept)
        seen = both(both(self._kept, seen), self._kept)
        same = g.constant([1, 1, 1, 1], "i64")
        mask = self._chosen(g.broadcast_to(seen, same, _SHAPE, mode="bidirectional"))
        return g.slice(mask, 0, 2**63 - 1, -1)

    def _chosen(self, seen: Value) -> Value:
        g = self._graph
        values = [seen, g.constant(0.0, "f32"), g.constant(_LEAST, "f32")]
        return g.add("Select", values, ("f32", _SHAPE), attributes={"auto_broadcast": "numpy"})

    def _scalar(self, size: Value) -> Value:
        nothing = self._graph.constant(np.empty(0, np.int64), "i64")
        about = {"special_zero": False}
        return self._graph.add("Reshape", [size, nothing], ("i64", ()), attributes=about)

    def _numbers(self, first: Value, stop: Value) -> Value:
        inputs = [first, stop, self._graph.constant(1, "i64")]
        about = {"output_type": "i64"}
        return self._graph.add("Range", inputs, ("i64", (-1,)), version="opset4", attributes=about)
