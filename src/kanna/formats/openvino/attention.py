"""Attention: heads turned by their positions, keys and values as states.

Its forms are those that OpenVINO's transformations recognize and compute as one operation. Scores
with a cap have no such form: there products and softmax stand one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanna.formats.openvino.ir import Value
from kanna.formats.openvino.masks import Masks
from kanna.formats.openvino.parts import DecoderParts
from kanna.formats.openvino.rotation import Rotation

# Names of the norms of heads that have turned already.
_LATE_NORM = "_layernorm.weight"
Turn = tuple[Value, Value]
"""Cosine and sine of every position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What attention sees besides its own tokens: masks, the batch's size, chosen beams."""

    masks: Masks
    batch: Value
    beams: Value


class DecoderAttention:
    """The attention of every layer."""

    def __init__(self, parts: DecoderParts, positions: Value, past: Past) -> None:
        self._parts, self._positions, self._past = parts, positions, past
        self._turns: dict[int, Turn] = {}

    def of(self, layer: int, x: Value) -> Value:
        """What layer number `layer` adds, f32 [batch, new, hidden]."""
        g, s, parts = self._parts.graph, self._parts.shape, self._parts
        own = f"model.layers.{layer}.self_attn."
        window = s.windows.get(layer, 0)
        turn = None if layer in s.unturned else self._turn(window)
        q, k, v = self._inputs(own, x)
        q_norm = parts.first(f"{own}q_norm.weight", f"{own}query_layernorm.weight")
        k_norm = parts.first(f"{own}k_norm.weight", f"{own}key_layernorm.weight")
        q = parts.scaled(self._heads(q, s.heads, q_norm, turn), "queries")
        k = self._heads(k, s.kv_heads, k_norm, turn)
        v = self._heads(v, s.kv_heads, "", None)
        k, v = (
            self._repeated(self._state(f"{layer}.{kind}", new))
            for kind, new in (("key", k), ("value", v))
        )
        mask = self._past.masks.of(window)
        mixed = self._capped(q, k, v, mask) if "attention" in s.caps else self._mixed(q, k, v, mask)
        width = s.heads * s.head_size
        joined = g.reshape(g.transpose(mixed, [0, 2, 1, 3]), [0, 0, width], (-1, -1, width))
        out = parts.first(f"{own}o_proj.weight", f"{own}dense.weight")
        return parts.linear(joined, out.removesuffix(".weight"))

    def _mixed(self, q: Value, k: Value, v: Value, mask: Value) -> Value:
        return self._parts.graph.add(
            "ScaledDotProductAttention",
            [q, k, v, mask],
            ("f32", q.shape),
            version="opset13",
            attributes={"causal": False},
        )

    def _capped(self, q: Value, k: Value, v: Value, mask: Value) -> Value:
        g, size = self._parts.graph, self._parts.shape.head_size
        scores = g.matmul(self._parts.times(q, size**-0.5), k, transposed=True)
        scores = g.binary("Add", self._parts.capped(scores, "attention"), mask)
        shares = g.add(
            "SoftMax", [scores], ("f32", scores.shape), version="opset8", attributes={"axis": -1}
        )
        return g.matmul(shares, v, transposed=False)

    def _inputs(self, own: str, x: Value) -> tuple[Value, Value, Value]:
        """Queries, keys and values of a layer, which may come from one matrix."""
        g, s = self._parts.graph, self._parts.shape
        if f"{own}qkv_proj.weight" not in self._parts.tensors:
            q, k, v = (self._parts.linear(x, f"{own}{kind}_proj") for kind in "qkv")
            return q, k, v
        joined = self._parts.linear(x, f"{own}qkv_proj")
        wide, narrow = s.heads * s.head_size, s.kv_heads * s.head_size
        ends = (0, wide, wide + narrow, wide + 2 * narrow)
        q, k, v = (g.slice(joined, a, b, b - a) for a, b in zip(ends, ends[1:], strict=False))
        return q, k, v

    def _turn(self, window: int) -> Turn:
        """Cosine and sine for layers of a window: f32 [batch, 1, new, values that turn]."""
        s = self._parts.shape
        rotation = s.window_rotation if window and s.window_rotation is not None else s.rotation
        if id(rotation) not in self._turns:
            self._turns[id(rotation)] = self._angles(rotation)
        return self._turns[id(rotation)]

    def _angles(self, rotation: Rotation) -> Turn:
        g = self._parts.graph
        frequencies = g.constant(rotation.frequencies.reshape(1, -1, 1), "f32")
        places = g.convert(g.unsqueeze(self._positions, [1]), "f32")
        turned = g.matmul(frequencies, places, transposed=False)
        half = g.transpose(turned, [0, 2, 1])
        whole = g.concat([half, half], 2)

        def table(kind: str) -> Value:
            value = g.unary(kind, whole)
            if rotation.scale != 1:
                value = self._parts.times(value, rotation.scale)
            return g.unsqueeze(value, [1])

        return table("Cos"), table("Sin")

    def _rotated(self, x: Value, turn: Turn) -> Value:
        """Heads turned by their positions, the first half of a head with the second.

        Where fewer values of a head turn, these are the first.
        """
        g, size = self._parts.graph, self._parts.shape.head_size
        cosine, sine = turn
        turned = cosine.shape[-1]
        rest = g.slice(x, turned, size, size - turned) if turned < size else None
        if rest is not None:
            x = g.slice(x, 0, turned, turned)
        half = turned // 2
        first, second = g.slice(x, 0, half, half), g.slice(x, half, 2**63 - 1, half)
        negative = g.binary("Multiply", second, g.constant(-1.0, "f32"))
        crossed = g.binary("Multiply", g.concat([negative, first], -1), sine)
        x = g.binary("Add", g.binary("Multiply", x, cosine), crossed)
        return x if rest is None else g.concat([x, rest], -1)

    def _heads(self, x: Value, count: int, norm: str, turn: Turn | None) -> Value:
        """[batch, new, count * size] as [batch, count, new, size], normed and turned."""
        g, s, size = self._parts.graph, self._parts.shape, self._parts.shape.head_size
        sizes = self._parts.tensors.get(norm)
        whole = sizes is not None and tuple(sizes) == (count * size,) != (size,)
        if whole:
            x = self._parts.norm(x, norm)
        x = g.reshape(x, [0, 0, count, size], (-1, -1, count, size))
        each = sizes is not None and not whole
        turned_first = norm.endswith(_LATE_NORM)
        if each and not turned_first:
            x = self._parts.norm(x, norm)
        if turn and s.paired:
            pairs = g.reshape(x, [0, 0, count, size // 2, 2], (-1, -1, count, size // 2, 2))
            x = g.transpose(pairs, [0, 1, 2, 4, 3])
            x = g.reshape(x, [0, 0, count, size], (-1, -1, count, size))
        x = g.transpose(x, [0, 2, 1, 3])
        if turn:
            x = self._rotated(x, turn)
        return self._parts.norm(x, norm) if each and turned_first else x

    def _state(self, name: str, new: Value) -> Value:
        """Keys or values of all tokens so far; kept until the next call, beam by beam.

        The state has the name that OpenVINO's pipeline for NPUs takes an input and an output from.
        """
        g, s = self._parts.graph, self._parts.shape
        shape = (-1, s.kv_heads, -1, s.head_size)
        about = {
            "variable_id": f"past_key_values.{name}present.{name}",
            "variable_type": "f32",
            "variable_shape": f"?,{s.kv_heads},?,{s.head_size}",
        }
        rest = g.constant([s.kv_heads, 0, s.head_size], "i64")
        sizes = g.concat([self._past.batch, rest], 0)
        empty = (-1, s.kv_heads, 0, s.head_size)
        start = g.broadcast_to(g.constant(0.0, "f32"), sizes, empty, mode="numpy")
        past = g.add("ReadValue", [start], ("f32", shape), version="opset6", attributes=about)
        kept = g.concat([g.gather(past, self._past.beams, 0), new], 2)
        g.add("Assign", [kept], None, version="opset6", attributes=about)
        return kept

    def _repeated(self, x: Value) -> Value:
        """Keys or values, each head as often as queries share it."""
        g, s = self._parts.graph, self._parts.shape
        times = s.heads // s.kv_heads
        if times == 1:
            return x
        size = s.head_size
        target = g.constant(np.array([1, 1, times, 1, 1]), "i64")
        wide = g.broadcast_to(
            g.unsqueeze(x, [2]), target, (-1, s.kv_heads, times, -1, size), mode="bidirectional"
        )
        return g.reshape(wide, [0, s.heads, -1, size], (-1, s.heads, -1, size))
