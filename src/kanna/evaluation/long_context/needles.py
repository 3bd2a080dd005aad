"""Facts hidden in a long text, and asked for at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanna.evaluation.long_context.depths import LongReader

_FACTS = (("lighthouse", "7391", 0.1), ("bakery", "4826", 0.4), ("harbour", "9175", 0.9))
"""A place, its number, and where in the text it is told: not where divergence is read, before half
of it."""
_ANSWER = 8
_ROOM = 256
"""Tokens that a text has at least to hide something in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedlePrompt:
    """A long text with facts in it and one question.

    Attributes:
        depth: Tokens before the fact.
        number: The right answer.
        ids: The prompt.
    """

    depth: int
    number: str
    ids: list[int]


def hide(
    engine: LongReader, filler: Sequence[int], context: int
) -> tuple[list[int], list[NeedlePrompt]]:
    """A text with all facts in it, and a prompt for each: its beginning, and a question.

    Only the ends of prompts differ, and the text goes on where the questions stand: a cache that
    can go back reads everything once.

    Args:
        engine: Whose tokenizer is used.
        filler: Tokens of ordinary text.
        context: Tokens of the text, and of text, question and answer together.

    Returns:
        The ordinary text and no prompt where there is no room.
    """
    facts = [engine.tokenize(f" The secret number of the {p} is {n}.") for p, n, _ in _FACTS]
    asked = [engine.tokenize(f"\n\nThe secret number of the {p} is") for p, _, _ in _FACTS]
    rest = context - sum(map(len, facts)) - max(map(len, asked)) - _ANSWER - 1
    if context < _ROOM or len(filler) < context:
        return list(filler), []
    text: list[int] = []
    depths: list[int] = []
    done = 0
    for (_, _, share), ids in zip(_FACTS, facts, strict=True):
        text += filler[done : (done := int(rest * share))]
        depths.append(len(text))
        text += ids
    text += filler[done:rest]
    return [*text, *filler[rest : rest + context - len(text)]], [
        NeedlePrompt(depth=depth, number=number, ids=text + ids)
        for (_, number, _), depth, ids in zip(_FACTS, depths, asked, strict=True)
    ]


def answers(engine: LongReader, asked: Sequence[NeedlePrompt]) -> Iterator[str]:
    """What is answered greedily."""
    for prompt in asked:
        yield "".join(engine.generate(prompt.ids, max_tokens=_ANSWER))


def is_found(prompt: NeedlePrompt, answer: str) -> bool:
    """Whether an answer begins with the number."""
    return answer.strip().startswith(prompt.number)
