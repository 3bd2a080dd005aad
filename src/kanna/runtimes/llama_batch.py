"""Batches of llama.cpp, `llama_batch`."""

from __future__ import annotations

from collections.abc import Sequence
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
