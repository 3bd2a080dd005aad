"""Log-probabilities of tokens, from the shape of chats into that of completions.

A chat has a list of objects; a completion has parallel lists and offsets in its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


@dataclass(slots=True, kw_only=True)
class TokenScore:
    """A token with its natural log-probability.

    Attributes:
        value: None for the first token of a prompt, which nothing predicts.
        top: Texts and log-probabilities of the likeliest tokens in its place.
    """

    text: str
    value: float | None
    top: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])


@dataclass(slots=True, kw_only=True)
class ScoredText:
    """Text that stands before an answer, with its tokens.

    Attributes:
        offset: Where the tokens begin, in characters.
    """

    text: str = ""
    tokens: list[TokenScore] = field(default_factory=list[TokenScore])
    offset: int = 0

    def completion_logprobs(self, answer: Sequence[TokenScore], top: int) -> dict[str, Any]:
        """OpenAI's `logprobs` of a completion: of these tokens and of the answer after them.

        Args:
            answer: Tokens that follow.
            top: How many of the likeliest to name.
        """
        tokens = [*self.tokens, *answer]
        offsets, offset = list[int](), self.offset
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        likeliest = [_top_logprobs(t, top) if t.value is not None else None for t in tokens]
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.value for t in tokens],
            "top_logprobs": likeliest if top else None,
            "text_offset": offsets,
        }


def _top_logprobs(token: TokenScore, top: int) -> dict[str, float]:
    """The likeliest by their text, and the token itself; of two with one text the likelier."""
    by_text: dict[str, float] = {}
    for text, value in token.top[:top]:
        by_text.setdefault(text, value)
    if token.value is not None:
        by_text.setdefault(token.text, token.value)
    return by_text


def from_chat(logprobs: Any) -> list[TokenScore]:
    """Tokens of `{"content": [{"token", "logprob", "top_logprobs"}]}`, as engines answer."""
    if not isinstance(logprobs, dict):
        return []
    return [
        TokenScore(
            text=str(entry["token"]),
            value=max(LOWEST, float(entry["logprob"])),
            top=[
                (str(other["token"]), max(LOWEST, float(other["logprob"])))
                for other in entry.get("top_logprobs") or ()
            ],
        )
        for entry in logprobs.get("content") or ()
    ]


def from_scores(answer: dict[str, Any]) -> list[TokenScore]:
    """Tokens of an engine's answer to `/score`."""
    return [
        TokenScore(
            text=entry["text"],
            value=None if entry["logprob"] is None else max(LOWEST, entry["logprob"]),
            top=[(text, max(LOWEST, value)) for text, value in entry["top"]],
        )
        for entry in answer["tokens"]
    ]
