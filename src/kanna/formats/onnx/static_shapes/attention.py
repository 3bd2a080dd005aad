"""GroupQueryAttention in standard operators of fixed shapes, with a cache of fixed length.

An NPU knows no operator with a cache of its own: here keys and values of a chunk are scattered into
the cache at their positions, and every query is held to the whole cache under a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kanna.errors import UnsupportedError
from kanna.formats.onnx.static_shapes.node_list import NodeList
from kanna.formats.onnx.static_shapes.positions import ChunkPositions

QUERY, KEY, VALUE, PAST_KEY, PAST_VALUE = range(5)
COSINE, SINE = 7, 8
_UNKNOWN = {9: "positions of its own", 10: "a bias on its scores", 11: "sinks"}
"""Inputs of a node that has more than an NPU's graph is made for here."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of one attention.

    Attributes:
        queries: Heads of queries.
        keys: Heads of keys and values.
        size: Values per head.
        rotary: Values of each that are turned; 0: none.
    """

    queries: int
    keys: int
    size: int
    rotary: int


class Attention:
    """Writes attentions into one graph."""

    def __init__(self, nodes: NodeList, chunk: int, context: int) -> None:
        self._nodes, self._chunk = nodes, chunk
        self._positions = ChunkPositions(nodes, chunk, context)

    def spell_out(self, node: Any, size: int, tables: Mapping[str, int]) -> None:
        """Append the nodes that do what a GroupQueryAttention does.

        Args:
            node: The GroupQueryAttention; its outputs keep their names.
            size: Values per head.
            tables: Columns of each table of cosines and sines.

        Raises:
            UnsupportedError: It does something that is not known here.
        """
        import onnx

        attributes: dict[str, Any] = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        inputs = [*node.input, *[""] * (12 - len(node.input))]
        _check(node, inputs, attributes)
        turned = attributes.get("do_rotary", 0)
        heads = Heads(
            queries=attributes["num_heads"],
            keys=attributes["kv_num_heads"],
            size=size,
            rotary=2 * tables[inputs[COSINE]] if turned else 0,
        )
        query, key, value = self._split(node.name, inputs, heads)
        if turned:
            query, key = (
                self._turn(f"{node.name}/{kind}", states, inputs, heads)
                for kind, states in (("query", query), ("key", key))
            )
        places = self._positions.places(heads.keys)
        key, value = (
            self._nodes.add("ScatterND", [inputs[past], places, states], name, output=present)
            for past, states, name, present in (
                (PAST_KEY, key, f"{node.name}/keys", node.output[1]),
                (PAST_VALUE, value, f"{node.name}/values", node.output[2]),
            )
        )
        self._attend(node, (query, key, value), heads, attributes)

    def _split(self, name: str, inputs: list[str], heads: Heads) -> tuple[str, str, str]:
        """Queries, keys and values, each [1, heads, chunk, size]."""
        if inputs[KEY]:
            kinds = (("query", heads.queries), ("key", heads.keys), ("value", heads.keys))
            query, key, value = (
                self._by_head(f"{name}/{kind}", states, number, heads.size)
                for states, (kind, number) in zip(inputs[:3], kinds, strict=True)
            )
            return query, key, value
        edges = (0, heads.queries, heads.queries + heads.keys, heads.queries + 2 * heads.keys)
        states = self._by_head(f"{name}/joined", inputs[QUERY], edges[-1], heads.size)
        query, key, value = (
            self._slice(f"{name}/{kind}", states, start, stop, axis=1)
            for kind, (start, stop) in zip(("query", "key", "value"), pairwise(edges), strict=True)
        )
        return query, key, value

    def _by_head(self, name: str, states: str, number: int, size: int) -> str:
        shape = self._nodes.integers(1, self._chunk, number, size)
        apart = self._nodes.add("Reshape", [states, shape], f"{name}/Reshape")
        return self._nodes.add("Transpose", [apart], f"{name}/Transpose", perm=[0, 2, 1, 3])

    def _slice(self, name: str, states: str, start: int, stop: int, axis: int) -> str:
        bounds = [self._nodes.integers(n) for n in (start, stop, axis)]
        return self._nodes.add("Slice", [states, *bounds], f"{name}/Slice")

    def _turn(self, name: str, states: str, inputs: list[str], heads: Heads) -> str:
        """States [1, heads, chunk, size] turned by the angles of their positions, by halves."""
        nodes, half = self._nodes, heads.rotary // 2
        cosine, sine = (self._positions.angles(inputs[i]) for i in (COSINE, SINE))
        low = self._slice(f"{name}/low", states, 0, half, axis=3)
        high = self._slice(f"{name}/high", states, half, heads.rotary, axis=3)
        products = [
            nodes.add("Mul", [part, table], f"{name}/{kind}")
            for kind, part, table in (
                ("low_cosine", low, cosine),
                ("high_sine", high, sine),
                ("high_cosine", high, cosine),
                ("low_sine", low, sine),
            )
        ]
        parts = [
            nodes.add("Sub", products[:2], f"{name}/turned_low"),
            nodes.add("Add", products[2:], f"{name}/turned_high"),
        ]
        if heads.rotary < heads.size:
            parts.append(self._slice(f"{name}/rest", states, heads.rotary, heads.size, axis=3))
        return nodes.add("Concat", parts, f"{name}/Concat", axis=3)

    def _attend(
        self,
        node: Any,
        states: tuple[str, str, str],
        heads: Heads,
        attributes: Mapping[str, Any],
    ) -> None:
        """Softmax of masked scores times values; queries that share a key lie below each other."""
        nodes, name, (query, key, value) = self._nodes, node.name, states
        repeats = heads.queries // heads.keys
        rows = nodes.integers(1, heads.keys, repeats * self._chunk, heads.size)
        scale = attributes.get("scale") or heads.size**-0.5
        scaled = nodes.add(
            "Mul", [query, nodes.constant([scale], np.float32)], f"{name}/query/scaled"
        )
        grouped = nodes.add("Reshape", [scaled, rows], f"{name}/query/grouped")
        turned = nodes.add("Transpose", [key], f"{name}/keys/Transpose", perm=[0, 1, 3, 2])
        scores = nodes.add("MatMul", [grouped, turned], f"{name}/scores")
        if cap := attributes.get("softcap", 0.0):
            limit = nodes.constant([cap], np.float32)
            share = nodes.add("Div", [scores, limit], f"{name}/share")
            bounded = nodes.add("Tanh", [share], f"{name}/Tanh")
            scores = nodes.add("Mul", [bounded, limit], f"{name}/capped")
        mask = self._positions.mask(repeats, max(0, attributes.get("local_window_size", -1)))
        masked = nodes.add("Add", [scores, mask], f"{name}/masked")
        weights = nodes.add("Softmax", [masked], f"{name}/Softmax", axis=-1)
        mixed = nodes.add("MatMul", [weights, value], f"{name}/mixed")
        apart = nodes.integers(1, heads.queries, self._chunk, heads.size)
        by_head = nodes.add("Reshape", [mixed, apart], f"{name}/mixed/Reshape")
        by_token = nodes.add("Transpose", [by_head], f"{name}/Transpose", perm=[0, 2, 1, 3])
        width = nodes.integers(1, self._chunk, heads.queries * heads.size)
        nodes.add("Reshape", [by_token, width], f"{name}/Reshape", output=node.output[0])


def _check(node: Any, inputs: list[str], attributes: Mapping[str, Any]) -> None:
    """UnsupportedError for what this file has no nodes for."""
    extra = next((words for i, words in _UNKNOWN.items() if inputs[i]), "")
    if attributes.get("rotary_interleaved", 0):
        extra = "angles that turn neighbours"
    if attributes.get("smooth_softmax", 0) > 0:
        extra = "a softmax with one more term"
    if extra:
        raise UnsupportedError(
            f"{node.name} has {extra}: there is no graph of fixed shapes for it",
            expected="attention with grouped heads, windows, soft caps and rotary embeddings",
            todo="convert without --static",
        )
