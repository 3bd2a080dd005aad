"""The merges that a SentencePiece model of type BPE makes, which tells of scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def merges(pieces: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best score first.

    Args:
        pieces: Token id by text, of ordinary tokens.
        scores: Score of every token of the vocabulary.
    """
    order = sorted((t for t in pieces if len(t) > 1), key=lambda t: (-scores[pieces[t]], pieces[t]))
    made: list[tuple[str, str]] = []
    for text in order:
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(pieces[a], pieces[b], a, b) for a, b in splits if a in pieces and b in pieces]
        made += [(a, b) for _, _, a, b in sorted(known)]
    return made
