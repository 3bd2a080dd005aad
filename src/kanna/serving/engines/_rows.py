"""Sequences in the rows of a decoder: what the scheduler of rows asks of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from kanna.model import F32
from kanna.serving.engines._jobs import AdapterScales

PREFILL = 256
"""Prompt tokens read between two steps of the rows that generate already."""


class RowDecoder(Protocol):
    """Rows of `context` tokens, of which the first `active` are in use."""

    vocab_size: int
    context: int

    @property
    def active(self) -> int:
        """Rows in use."""
        ...

    def begin(self, adapters: AdapterScales = ()) -> int:
        """The index of a new, empty row; the caller makes sure that one is free.

        Args:
            adapters: Those that change what is computed in it.
        """
        ...

    def move(self, row: int, to: int) -> None:
        """Put what one row holds in the place of another."""
        ...

    def end(self, row: int) -> None:
        """Forget the last row, which `row` must be."""
        ...

    def read(self, row: int, ids: Sequence[int], keep: int) -> F32:
        """Append `ids` to one row; logits after the last `keep` of them, f32 [keep, vocab_size].

        `keep` is at least 1: those of the others need not be computed.
        """
        ...

    def step(self, ids: Sequence[int]) -> F32:
        """Append one token to each of the first rows; logits after it, f32 [rows, vocab_size].

        The next step may overwrite them.
        """
        ...


def score(decoder: RowDecoder, ids: Sequence[int], adapters: AdapterScales = ()) -> Iterator[F32]:
    """Logits after each of `ids`, in blocks: f32 [positions, vocab_size].

    They are computed in a free row, which is given back.
    """
    row = decoder.begin(adapters)
    try:
        for start in range(0, len(ids), PREFILL):
            part = ids[start : start + PREFILL]
            yield decoder.read(row, part, len(part))
    finally:
        decoder.end(row)
