"""Tokens that share one text: llama.cpp finds one of them only, and aborts when it loads them."""

from __future__ import annotations

from collections.abc import Sequence


def repeated(tokens: object) -> str:
    """Which token repeats the text of another, as a sentence; "" where none does.

    Args:
        tokens: Texts by id. Empty ones do not count: llama.cpp numbers them.
    """
    if not isinstance(tokens, Sequence) or isinstance(tokens, str):
        return ""
    texts: Sequence[object] = tokens
    first: dict[object, int] = {}
    for i, text in enumerate(texts):
        if text and first.setdefault(text, i) != i:
            return f"tokens {first[text]} and {i} have the same text, {text!r:.60}"
    return ""
