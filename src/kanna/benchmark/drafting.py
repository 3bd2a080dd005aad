"""How many tokens that a small model guesses are those that a large one writes.

`python -m kanna.benchmark.drafting '{"path": …, "draft": …}'` prints one JSON object. The large
model writes a text, and both are asked for the likeliest token after every token of it. A guess
counts only while all before it were right, so guesses for one place after another are those of
speculative decoding: what is counted is what a runtime accepts that always takes the likeliest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from kanna._util.processes import answer
from kanna.benchmark import draft_prompts
from kanna.benchmark.draft_prompts import PROMPT, DraftPrompt
from kanna.errors import UsageError
from kanna.runtimes.base import Engine

AHEAD = 4
"""Tokens that are guessed at a time."""
_ROOM = 64


def steps(
    first: int, end: int, guess: Callable[[int, int], Iterable[bool]], ahead: int = AHEAD
) -> list[tuple[int, int]]:
    """Of each step of a model, tokens that were guessed, and those that it accepts.

    Args:
        first: Place of the first token that is guessed.
        end: Place after the last one.
        guess: Given a place and how many are guessed there: whether each is what is written.
        ahead: Tokens that are guessed at a time.
    """
    place, made = first, list[tuple[int, int]]()
    while place < end:
        guessed = min(ahead, end - place)
        held = [*map(bool, guess(place, guessed)), False].index(False)
        made.append((guessed, held))
        place += held + 1  # a step of the model writes one token of its own
    return made


def figures(steps: Sequence[tuple[int, int]], ahead: int) -> dict[str, Any]:
    """What steps of a model come to: of each, tokens that were guessed, and those it accepts."""
    drafted, held = (sum(step[i] for step in steps) for i in (0, 1))
    return {
        "drafted": drafted,
        "accepted": held,
        "acceptance": held / drafted if drafted else 0.0,
        "tokens_per_step": (len(steps) + held) / len(steps) if steps else 0.0,
        "ahead": ahead,
    }


def measure(
    path: str, *, draft: str, tokens: int, threads: int | None, prompts: str | None = None
) -> dict[str, Any]:
    """Write with the model at `path`, and guess what it writes with that at `draft`.

    Args:
        path: What is drafted for.
        draft: What drafts.
        tokens: How many are written after the usual prompt.
        threads: Threads to use.
        prompts: A file of other prompts; None: the usual one.

    Raises:
        UsageError: Both have not one vocabulary.
    """
    from kanna import runtimes

    asked = draft_prompts.asked(prompts, tokens)
    room = draft_prompts.room(asked) + _ROOM
    with runtimes.of(path).open(path, context=room, threads=threads) as large:
        size, given = large.vocab_size, large.tokenize(PROMPT, add_bos=True)
        texts = [_written(large, one, room) for one in asked]
    with runtimes.of(draft).open(draft, context=room, threads=threads) as small:
        if small.tokenize(PROMPT, add_bos=True) != given or small.vocab_size != size:
            raise UsageError(
                f"{draft} splits text into other tokens than {path}",
                expected="a draft model of the same vocabulary",
                todo="give a smaller model of the same family",
            )
        made: list[tuple[int, int]] = []
        for ids, first, likeliest in texts:
            right = likeliest == np.argmax(small.logits(ids, first=first), axis=-1)
            made += steps(0, len(right), lambda at, count, r=right: r[at : at + count])
    return figures(made, AHEAD)


def _written(large: Engine, prompt: DraftPrompt, room: int) -> tuple[list[int], int, Any]:
    """Tokens of a prompt and what a model writes, the place before that, the likeliest after it."""
    ids = prompt.tokenized(large.tokenize, large.vocab_size)
    text = "".join(large.generate(ids, max_tokens=prompt.tokens, ignore_eog=True))
    whole = [*ids, *large.tokenize(text)][: room - 1]
    return whole, len(ids) - 1, np.argmax(large.logits(whole, first=len(ids) - 1), axis=-1)


if __name__ == "__main__":
    sys.exit(answer(measure))
