"""Log-probabilities of tokens, from the shape of chats into that of completions.

Parallel lists and offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


@dataclass(slots=True, kw_only=True)
class TokenScore:
    """A token's text, its natural log-probability (None: it is the first, nothing predicts it), and the likeliest."""

    text: str
    value: float | None
    top: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])


@dataclass(slots=True, kw_only=True)
class Table:
    """Text that stands before an answer, with its tokens.

    `offset` in characters, where they begin.
    """

    text: str = ""
    tokens: list[TokenScore] = field(default_factory=list[TokenScore])
    offset: int = 0

    def shown(self, more: Sequence[TokenScore], top: int) -> dict[str, Any]:
        """OpenAI's `logprobs` of a completion.

        Of these tokens and of `more` after them, with the `top` likeliest.
        """
        tokens = [*self.tokens, *more]
        offsets, at = list[int](), self.offset
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        likeliest = [_dict(t, top) if t.value is not None else None for t in tokens]
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.value for t in tokens],
            "top_logprobs": likeliest if top else None,
            "text_offset": offsets,
        }


def _dict(token: TokenScore, top: int) -> dict[str, float]:
    """By text; the token itself is always there.

    Of two tokens with one text the likelier counts.
    """
    found: dict[str, float] = {}
    for text, value in token.top[:top]:
        found.setdefault(text, value)
    if token.value is not None:
        found.setdefault(token.text, token.value)
    return found


def read(given: Any) -> list[TokenScore]:
    """Tokens of an engine's `{"content": [{"token", "logprob", "top_logprobs"}]}`."""
    if not isinstance(given, dict):
        return []
    return [
        TokenScore(
            text=str(t["token"]),
            value=max(LOWEST, float(t["logprob"])),
            top=[
                (str(o["token"]), max(LOWEST, float(o["logprob"])))
                for o in t.get("top_logprobs") or ()
            ],
        )
        for t in given.get("content") or ()
    ]


def scored(given: dict[str, Any]) -> list[TokenScore]:
    """Tokens of an engine's answer to `/score`.

    {"tokens": [{"text", "logprob", "top": [[text, logprob]]}]}.
    """
    return [
        TokenScore(
            text=t["text"],
            value=None if t["logprob"] is None else max(LOWEST, t["logprob"]),
            top=[(text, max(LOWEST, value)) for text, value in t["top"]],
        )
        for t in given["tokens"]
    ]
