"""The graph of a decoder of the Llama kind, with keys and values as states.

Inputs and outputs are those that openvino-genai gives and takes; its forms of norms, rotation and
attention are those that OpenVINO's transformations recognize and compute as one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kanna.formats.openvino.ir import NUMPY, Graph, Shape, Value
from kanna.formats.openvino.rotation import Rotation

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
LOGITS = "logits"
# Names of the norms of heads that have turned already.
_LATE_NORM = "_layernorm.weight"
_LEAST = float(np.finfo(np.float32).min)
_FLAT: Shape = (-1, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes of a decoder.

    Attributes:
        layers: Decoder layers.
        heads, kv_heads: Heads of queries, and of keys and values.
        head_size: Values of a head.
        epsilon: Added to the mean square in norms.
        rotation: Angles of positions.
        unturned: Layers that know no positions.
        paired: Whether the values that turn together lie side by side, not half a head apart.
        scales: What is multiplied: `embedding`, `residual`, `queries`, `logits`; those missing, by
            1.
    """

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    rotation: Rotation
    unturned: frozenset[int] = frozenset()
    paired: bool = False
    scales: Mapping[str, float] = field(default_factory=dict[str, float])


Weight = Callable[[Graph, str], Value]
"""Adds a tensor of the model to the graph by its Hugging Face name, as f32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What attention sees besides its own tokens: the mask, the batch's size, chosen beams."""

    mask: Value
    batch: Value
    beams: Value


class Decoder:
    """A decoder's graph, built layer by layer."""

    def __init__(self, shape: DecoderShape, weight: Weight, tensors: Mapping[str, Shape]) -> None:
        """Prepare to build.

        Args:
            shape: Sizes of the model.
            weight: Adds a tensor to the graph.
            tensors: Shapes by Hugging Face name; what is not there is not in the graph.
        """
        self.graph, self._shape, self._tensors = Graph(), shape, tensors
        self._add_weight, self._weights = weight, dict[str, Value]()

    def build(self) -> Graph:
        """The whole graph."""
        g = self.graph
        ids, attended, positions = (g.parameter(n, "i64", _FLAT) for n in INPUTS[:3])
        beams = g.parameter(INPUTS[3], "i32", (-1,))
        embedding = self._weight(EMBEDDING)
        x = self._scaled(g.gather(embedding, g.convert(ids, "i32"), 0), "embedding")
        batch = g.size_of(ids, 0)
        mask = self._mask(ids, attended)
        turn = self._angles(positions)
        past = _Past(mask=mask, batch=batch, beams=beams)
        for layer in range(self._shape.layers):
            name = f"model.layers.{layer}."
            angles = None if layer in self._shape.unturned else turn
            x = self._layer(name, x, lambda h, n=name, a=angles: self._attention(n, h, a, past))
        x = self._norm(x, NORM)
        head = self._weight(HEAD) if HEAD in self._tensors else embedding
        scaled = "logits" in self._shape.scales
        logits = g.matmul(x, head, transposed=True, names="" if scaled else LOGITS)
        if scaled:
            factor = g.constant(self._shape.scales["logits"], "f32")
            logits = g.add(
                "Multiply", [logits, factor], ("f32", logits.shape), attributes=NUMPY, names=LOGITS
            )
        g.add("Result", [logits], None)
        return g

    def _layer(self, name: str, x: Value, attention: Callable[[Value], Value]) -> Value:
        """A layer, whose norms stand before its two parts or after them."""
        g, last = self.graph, f"{name}post_feedforward_layernorm.weight"
        middle = f"{name}post_attention_layernorm.weight"
        if last in self._tensors:
            h = self._norm(attention(x), middle)
            x = g.binary("Add", x, self._scaled(h, "residual"))
            h = self._norm(self._feed_forward(name, x), last)
        else:
            h = attention(self._norm(x, f"{name}input_layernorm.weight"))
            x = g.binary("Add", x, self._scaled(h, "residual"))
            h = self._feed_forward(name, self._norm(x, middle))
        return g.binary("Add", x, self._scaled(h, "residual"))

    def _scaled(self, x: Value, what: str) -> Value:
        factor = self._shape.scales.get(what, 1.0)
        return (
            x
            if factor == 1
            else self.graph.binary("Multiply", x, self.graph.constant(factor, "f32"))
        )

    @property
    def used(self) -> set[str]:
        """Names of the tensors that the graph reads."""
        return set(self._weights)

    def _weight(self, name: str) -> Value:
        if name not in self._weights:
            self._weights[name] = self._add_weight(self.graph, name)
        return self._weights[name]

    def _linear(self, x: Value, name: str) -> Value:
        y = self.graph.matmul(x, self._weight(f"{name}.weight"), transposed=True)
        bias = f"{name}.bias"
        return self.graph.binary("Add", y, self._weight(bias)) if bias in self._tensors else y

    def _norm(self, x: Value, name: str) -> Value:
        """X / √(mean(x²) + ε), times the weight."""
        g, one = self.graph, self.graph.constant
        square = g.binary("Power", x, one(2.0, "f32"))
        mean = g.add(
            "ReduceMean",
            [square, one([-1], "i64")],
            ("f32", (*x.shape[:-1], 1)),
            attributes={"keep_dims": True},
        )
        root = g.unary("Sqrt", g.binary("Add", mean, one(self._shape.epsilon, "f32")))
        scaled = g.binary("Multiply", x, g.binary("Divide", one(1.0, "f32"), root))
        return g.binary("Multiply", self._weight(name), scaled)

    def _mask(self, ids: Value, attended: Value) -> Value:
        """0 where a token sees another one, else the least number: f32 [batch, 1, new, all].

        A token sees those before it and itself, as far as `attention_mask` has a 1 for them.
        """
        g = self.graph
        total, new = (g.size_of(v, 1) for v in (attended, ids))
        zero = g.constant(0, "i64")
        squeeze = {"special_zero": False}
        total, new = (
            g.add(
                "Reshape",
                [v, g.constant(np.empty(0, np.int64), "i64")],
                ("i64", ()),
                attributes=squeeze,
            )
            for v in (total, new)
        )
        step = g.constant(1, "i64")

        def numbers(first: Value) -> Value:
            return g.add(
                "Range",
                [first, total, step],
                ("i64", (-1,)),
                version="opset4",
                attributes={"output_type": "i64"},
            )

        columns = g.unsqueeze(numbers(zero), [0])
        rows = g.unsqueeze(numbers(g.binary("Subtract", total, new)), [1])
        past = g.binary("LessEqual", columns, rows, result="boolean")
        kept = g.unsqueeze(g.convert(attended, "boolean"), [1, 2])
        seen = g.binary("LogicalAnd", past, kept)
        values = [seen, g.constant(0.0, "f32"), g.constant(_LEAST, "f32")]
        shape = (-1, 1, -1, -1)
        return g.add("Select", values, ("f32", shape), attributes={"auto_broadcast": "numpy"})

    def _angles(self, positions: Value) -> tuple[Value, Value]:
        """Cosine and sine of every position: f32 [batch, 1, new, head_size]."""
        g, rotation = self.graph, self._shape.rotation
        frequencies = g.constant(rotation.frequencies.reshape(1, -1, 1), "f32")
        places = g.convert(g.unsqueeze(positions, [1]), "f32")
        turned = g.matmul(frequencies, places, transposed=False)
        half = g.transpose(turned, [0, 2, 1])
        whole = g.concat([half, half], 2)

        def table(kind: str) -> Value:
            value = g.unary(kind, whole)
            if rotation.scale != 1:
                value = g.binary("Multiply", value, g.constant(rotation.scale, "f32"))
            return g.unsqueeze(value, [1])

        return table("Cos"), table("Sin")

    def _rotated(self, x: Value, turn: tuple[Value, Value]) -> Value:
        """Heads turned by their positions, the first half of a head with the second."""
        g, size = self.graph, self._shape.head_size
        half = size // 2
        first, second = g.slice(x, 0, half, half), g.slice(x, half, 2**63 - 1, half)
        negative = g.binary("Multiply", second, g.constant(-1.0, "f32"))
        cosine, sine = turn
        crossed = g.binary("Multiply", g.concat([negative, first], -1), sine)
        return g.binary("Add", g.binary("Multiply", x, cosine), crossed)

    def _heads(self, x: Value, count: int, norm: str, turn: tuple[Value, Value] | None) -> Value:
        """[batch, new, count * size] as [batch, count, new, size], normed and turned."""
        g, s, size = self.graph, self._shape, self._shape.head_size
        whole = norm in self._tensors and tuple(self._tensors[norm]) == (count * size,) != (size,)
        if whole:
            x = self._norm(x, norm)
        x = g.reshape(x, [0, 0, count, size], (-1, -1, count, size))
        each = norm in self._tensors and not whole
        turned_first = norm.endswith(_LATE_NORM)
        if each and not turned_first:
            x = self._norm(x, norm)
        if turn and s.paired:
            pairs = g.reshape(x, [0, 0, count, size // 2, 2], (-1, -1, count, size // 2, 2))
            x = g.transpose(pairs, [0, 1, 2, 4, 3])
            x = g.reshape(x, [0, 0, count, size], (-1, -1, count, size))
        x = g.transpose(x, [0, 2, 1, 3])
        if turn:
            x = self._rotated(x, turn)
        return self._norm(x, norm) if each and turned_first else x

    def _inputs(self, own: str, x: Value) -> tuple[Value, Value, Value]:
        """Queries, keys and values of a layer, which may come from one matrix."""
        g, s = self.graph, self._shape
        if f"{own}qkv_proj.weight" not in self._tensors:
            q, k, v = (self._linear(x, f"{own}{kind}_proj") for kind in "qkv")
            return q, k, v
        joined = self._linear(x, f"{own}qkv_proj")
        wide, narrow = s.heads * s.head_size, s.kv_heads * s.head_size
        ends = (0, wide, wide + narrow, wide + 2 * narrow)
        q, k, v = (g.slice(joined, a, b, b - a) for a, b in zip(ends, ends[1:], strict=False))
        return q, k, v

    def _attention(
        self, name: str, x: Value, turn: tuple[Value, Value] | None, past: _Past
    ) -> Value:
        g, s = self.graph, self._shape
        own = f"{name}self_attn."
        q, k, v = self._inputs(own, x)
        q_norm, k_norm = (
            next((n for n in names if n in self._tensors), "")
            for names in (
                (f"{own}q_norm.weight", f"{own}query_layernorm.weight"),
                (f"{own}k_norm.weight", f"{own}key_layernorm.weight"),
            )
        )
        q = self._scaled(self._heads(q, s.heads, q_norm, turn), "queries")
        k = self._heads(k, s.kv_heads, k_norm, turn)
        v = self._heads(v, s.kv_heads, "", None)
        k, v = (
            self._repeated(self._state(f"{name}{kind}", new, past.batch, past.beams))
            for kind, new in (("key", k), ("value", v))
        )
        shape = (-1, s.heads, -1, s.head_size)
        mixed = g.add(
            "ScaledDotProductAttention",
            [q, k, v, past.mask],
            ("f32", shape),
            version="opset13",
            attributes={"causal": False},
        )
        width = s.heads * s.head_size
        joined = g.reshape(g.transpose(mixed, [0, 2, 1, 3]), [0, 0, width], (-1, -1, width))
        return self._linear(joined, own + "o_proj")

    def _state(self, name: str, new: Value, batch: Value, beams: Value) -> Value:
        """Keys or values of all tokens so far; kept until the next call, beam by beam."""
        g, s = self.graph, self._shape
        shape = (-1, s.kv_heads, -1, s.head_size)
        about = {
            "variable_id": f"{name}.state",
            "variable_type": "f32",
            "variable_shape": f"?,{s.kv_heads},?,{s.head_size}",
        }
        rest = g.constant([s.kv_heads, 0, s.head_size], "i64")
        sizes = g.concat([batch, rest], 0)
        empty = (-1, s.kv_heads, 0, s.head_size)
        start = g.broadcast_to(g.constant(0.0, "f32"), sizes, empty, mode="numpy")
        past = g.add("ReadValue", [start], ("f32", shape), version="opset6", attributes=about)
        kept = g.concat([g.gather(past, beams, 0), new], 2)
        g.add("Assign", [kept], None, version="opset6", attributes=about)
        return kept

    def _repeated(self, x: Value) -> Value:
        """Keys or values, each head as often as queries share it."""
        g, s = self.graph, self._shape
        times = s.heads // s.kv_heads
        if times == 1:
            return x
        size = s.head_size
        target = g.constant([1, 1, times, 1, 1], "i64")
        wide = g.broadcast_to(
            g.unsqueeze(x, [2]), target, (-1, s.kv_heads, times, -1, size), mode="bidirectional"
        )
        return g.reshape(wide, [0, s.heads, -1, size], (-1, s.heads, -1, size))

    def _feed_forward(self, name: str, x: Value) -> Value:
        g = self.graph
        joined = f"{name}mlp.gate_up_proj"
        if f"{joined}.weight" in self._tensors:
            both = self._linear(x, joined)
            size = both.shape[-1] // 2
            gate, up = (g.slice(both, a, a + size, size) for a in (0, size))
        else:
            gate = self._linear(x, f"{name}mlp.gate_proj")
            up = self._linear(x, f"{name}mlp.up_proj")
        gate = g.unary("Swish", gate, version="opset4")
        return self._linear(g.binary("Multiply", gate, up), f"{name}mlp.down_proj")
