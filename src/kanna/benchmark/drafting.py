"""How many tokens that a small model guesses are those that a large one writes.

`python -m kanna.benchmark.drafting '{"path": …, "draft": …}'` prints one JSON object. The large
model writes a text, and both are asked for the likeliest token after every token of it. A guess
counts only while all before it were right, so guesses for one place after another are those of
speculative decoding: what is counted is what a runtime accepts that always takes the likeliest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from kanna._util.processes import answer
from kanna.errors import UsageError

AHEAD = 4
"""Tokens that are guessed at a time."""
PROMPT = "The plane takes a shaving so thin that light passes through it, and"
_ROOM = 64


def accepted(right: Sequence[bool], ahead: int = AHEAD) -> dict[str, Any]:
    """Figures of speculative decoding.

    Args:
        right: For each token that the large model writes, whether the small one guesses it.
        ahead: Tokens that are guessed at a time.
    """
    place, steps = 0, list[tuple[int, int]]()
    while place < len(right):
        guessed = list(right[place : place + ahead])
        good = (guessed + [False]).index(False)
        steps.append((len(guessed), good))
        place += good + 1  # a step of the large model writes one token of its own
    return figures(steps, ahead)


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


def measure(path: str, *, draft: str, tokens: int, threads: int | None) -> dict[str, Any]:
    """Write `tokens` tokens with the model at `path`, and guess them with that at `draft`."""
    from kanna import runtimes

    room = tokens + _ROOM
    with runtimes.of(path).open(path, context=room, threads=threads) as large:
        prompt = large.tokenize(PROMPT, add_bos=True)
        text = "".join(large.generate(prompt, max_tokens=tokens, ignore_eog=True))
        ids = [*prompt, *large.tokenize(text)][: room - 1]
        likeliest = np.argmax(large.logits(ids, first=len(prompt) - 1), axis=-1)
        size = large.vocab_size
    with runtimes.of(draft).open(draft, context=room, threads=threads) as small:
        if small.tokenize(PROMPT, add_bos=True) != prompt or small.vocab_size != size:
            raise UsageError(
                f"{draft} splits text into other tokens than {path}",
                expected="a draft model of the same vocabulary",
                todo="give a smaller model of the same family",
            )
        guesses = np.argmax(small.logits(ids, first=len(prompt) - 1), axis=-1)
    return accepted((likeliest == guesses).tolist())


if __name__ == "__main__":
    sys.exit(answer(measure))
