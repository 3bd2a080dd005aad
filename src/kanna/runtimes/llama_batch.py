"""Batches of llama.cpp, `llama_batch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def fill(batch: Any, ids: Sequence[int], start: int, stop: int, first: int) -> int:
    """Put a part of a text into a batch.

    Args:
        batch: One that has room for it.
        ids: Token ids of the whole text, one sequence.
        start: Position of the first that goes in.
        stop: Position after the last.
        first: From this position on, logits are asked for.

    Returns:
        How many positions of the part give logits.
    """
    batch.n_tokens = stop - start
    for i, position in enumerate(range(start, stop)):
        batch.token[i] = ids[position]
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = position >= first
    return max(0, stop - max(start, first))


def parts(
    count: int, part: int, room: int, spans: Sequence[Sequence[int]] | None
) -> Iterator[tuple[int, int, bool]]:
    """The batches in which a text is read: start, stop, and whether logits are asked for.

    Args:
        count: Tokens of the text.
        part: Tokens with logits at a time.
        room: Tokens without logits at a time.
        spans: Start and stop of what is to have logits, in order; None: everything. What comes
            after the last is not read.
    """
    done = 0
    for first, last in [(0, count)] if spans is None else spans:
        for start in range(done, first, room):
            yield start, min(start + room, first), False
        for start in range(first, last, part):
            yield start, min(start + part, last), True
        done = last
