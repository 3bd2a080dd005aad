"""The graph of a decoder of the Llama kind, with keys and values as states.

Inputs and outputs are those that openvino-genai gives and takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kanna.formats.openvino.attention import DecoderAttention, Past
from kanna.formats.openvino.ir import Graph, Shape, Value
from kanna.formats.openvino.masks import Masks
from kanna.formats.openvino.parts import DecoderParts, DecoderShape, Weight

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORMS = ("model.norm.weight", "model.final_layernorm.weight")
INPUTS = ("input_ids", "attention_mask", "position_ids", "beam_idx")
LOGITS = "logits"
_FLAT: Shape = (-1, -1)


class Decoder:
    """A decoder's graph, built layer by layer."""

    def __init__(self, shape: DecoderShape, weight: Weight, tensors: Mapping[str, Shape]) -> None:
        """Prepare to build; arguments as of `DecoderParts`."""
        self._parts = DecoderParts(shape, weight, tensors)

    @property
    def used(self) -> set[str]:
        """Names of the tensors that the graph reads."""
        return self._parts.used

    def build(self) -> Graph:
        """The whole graph."""
        parts, g = self._parts, self._parts.graph
        ids, attended, positions = (g.parameter(n, "i64", _FLAT) for n in INPUTS[:3])
        beams = g.parameter(INPUTS[3], "i32", (-1,))
        embedding = parts.weight(EMBEDDING)
        x = parts.scaled(g.gather(embedding, g.convert(ids, "i32"), 0), "embedding")
        past = Past(batch=g.size_of(ids, 0), masks=Masks(g, ids, attended), beams=beams)
        attention = DecoderAttention(parts, positions, past)
        for layer in range(parts.shape.layers):
            x = self._layer(layer, x, attention)
        x = parts.norm(x, parts.first(*NORMS))
        head = HEAD.removesuffix(".weight") if HEAD in parts.tensors else ""
        y = parts.linear(x, head) if head else g.matmul(x, embedding, transposed=True)
        y = parts.capped(parts.scaled(y, "logits"), "logits")
        g.add("Result", [g.named(y, LOGITS)], None)
        return g

    def _layer(self, layer: int, x: Value, attention: DecoderAttention) -> Value:
        """A layer: norms stand before its two parts, after them, or both.

        Without a norm between the parts, both read the same.
        """
        parts, g, name = self._parts, self._parts.graph, f"model.layers.{layer}."
        middle = f"{name}post_attention_layernorm.weight"
        last = f"{name}post_feedforward_layernorm.weight"
        normed = self._normed(x, f"{name}input_layernorm.weight")
        attended = attention.of(layer, normed)
        after = last in parts.tensors
        if after:
            attended = parts.norm(attended, middle)
        added = g.binary("Add", x, parts.scaled(attended, "residual"))
        if not after and middle not in parts.tensors:
            return g.binary(
                "Add", added, parts.scaled(self._feed_forward(name, normed), "residual")
            )
        ahead = f"{name}pre_feedforward_layernorm.weight" if after else middle
        fed = self._feed_forward(name, self._normed(added, ahead))
        fed = parts.norm(fed, last) if after else fed
        return g.binary("Add", added, parts.scaled(fed, "residual"))

    def _normed(self, x: Value, name: str) -> Value:
        return self._parts.norm(x, name) if name in self._parts.tensors else x

    def _feed_forward(self, name: str, x: Value) -> Value:
        parts, g = self._parts, self._parts.graph
        if f"{name}mlp.fc1.weight" in parts.tensors:
            return parts.linear(
                self._activated(parts.linear(x, f"{name}mlp.fc1")), f"{name}mlp.fc2"
            )
        joined = f"{name}mlp.gate_up_proj"
        if f"{joined}.weight" in parts.tensors:
            both = parts.linear(x, joined)
            size = both.shape[-1] // 2
            gate, up = (g.slice(both, a, a + size, size) for a in (0, size))
        else:
            gate, up = (parts.linear(x, f"{name}mlp.{kind}_proj") for kind in ("gate", "up"))
        return parts.linear(g.binary("Multiply", self._activated(gate), up), f"{name}mlp.down_proj")

    def _activated(self, x: Value) -> Value:
        if not self._parts.shape.gelu:
            return self._parts.graph.unary("Swish", x, version="opset4")
        about = {"approximation_mode": "TANH"}
        return self._parts.graph.add(
            "Gelu", [x], ("f32", x.shape), version="opset7", attributes=about
        )
