"""Where the tokens of a chunk are in the text: their positions, angles, and what each may see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanna.formats.onnx.static_shapes.node_list import NodeList

PAST, TOTAL = "past_seq_len", "total_seq_len"
"""Inputs as onnxruntime-genai fills them in: the place of the last token, int32 [1, 1], counted
with what a chunk is padded with; and the room of the cache, int32 [1], which nothing reads."""
HIDDEN = -3e4
"""Added to the score of a key that may not be seen: within float16, and its exponential is 0."""


@dataclass(frozen=True, slots=True)
class ChunkPositions:
    """ChunkPositions of the tokens of one call, computed in the graph from `past_seq_len`.

    Attributes:
        nodes: Where the nodes go.
        chunk: Tokens of a call.
        context: Tokens that the cache has room for.
    """

    nodes: NodeList
    chunk: int
    context: int

    def _last(self) -> str:
        return self.nodes.once("Reshape", [PAST, self.nodes.integers(1)], "/static/last_position")

    def _of(self, repeats: int) -> str:
        """ChunkPositions of the chunk, `repeats` times over, int32 [repeats · chunk]."""
        offsets = np.tile(np.arange(1 - self.chunk, 1), repeats)
        return self.nodes.once(
            "Add",
            [self._last(), self.nodes.constant(offsets, np.int32)],
            f"/static/positions/{repeats}",
        )

    def places(self, heads: int) -> str:
        """Where the keys of a chunk go in a cache, int64 [1, heads, chunk, 3], for ScatterND."""
        grid = np.zeros((1, heads, self.chunk, 3), np.int64)
        grid[..., 1] = np.arange(heads)[:, None]
        nodes, name = self.nodes, f"/static/places/{heads}"
        wide = nodes.once("Cast", [self._of(1)], "/static/positions/long", to=7)
        column = nodes.once(
            "Reshape", [wide, nodes.integers(1, 1, self.chunk, 1)], "/static/positions/column"
        )
        last = nodes.once("Mul", [column, nodes.integers(0, 0, 1)], "/static/positions/last_axis")
        return nodes.once("Add", [last, nodes.constant(grid, np.int64)], name)

    def angles(self, table: str) -> str:
        """Rows of a table of cosines or sines, f32 [chunk, frequencies]."""
        return self.nodes.once("Gather", [table, self._of(1)], f"/static/{table}", axis=0)

    def mask(self, repeats: int, window: int) -> str:
        """What is added to scores, f32 [repeats · chunk, context].

        Args:
            repeats: Heads of queries that share the keys of one.
            window: Keys that a token sees, itself among them; 0: all before it.
        """
        nodes, name = self.nodes, f"/static/mask/{repeats}/{window}"
        own = nodes.once(
            "Reshape",
            [self._of(repeats), nodes.integers(repeats * self.chunk, 1)],
            f"/static/positions/{repeats}/column",
        )
        keys = nodes.constant(np.arange(self.context)[None], np.int32)
        seen = nodes.once("LessOrEqual", [keys, own], f"/static/before/{repeats}")
        if window:
            first = nodes.once("Sub", [own, nodes.constant([window], np.int32)], f"{name}/first")
            near = nodes.once("Greater", [keys, first], f"{name}/near")
            seen = nodes.once("And", [seen, near], f"{name}/seen")
        zero, hidden = (nodes.constant([v], np.float32) for v in (0.0, HIDDEN))
        return nodes.once("Where", [seen, zero, hidden], name)
