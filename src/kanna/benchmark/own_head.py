"""How many tokens that a model's own head for further tokens guesses are those that it writes.

`python -m kanna.benchmark.own_head '{"path": …}'` prints one JSON object. The model writes a text,
always the likeliest token, and its head guesses ahead after each step as llama-server's
`--spec-type draft-mtp` does. Both are computed by llama.cpp from the file that is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna._util.processes import answer
from kanna.benchmark import draft_prompts
from kanna.benchmark.drafting import AHEAD, figures, steps

if TYPE_CHECKING:
    from kanna.runtimes.llama_draft_head import LlamaDraftHead


def measure(
    path: str, *, tokens: int, threads: int, ahead: int = AHEAD, prompts: str | None = None
) -> dict[str, Any]:
    """Write with the model at `path`, and guess what it writes with its head.

    Args:
        path: A GGUF.
        tokens: How many are written after the usual prompt.
        threads: Threads to use.
        ahead: Tokens that are guessed at a time.
        prompts: A file of other prompts; None: the usual one.
    """
    from kanna.libllama import library
    from kanna.runtimes.llama_draft_head import LlamaDraftHead
    from kanna.runtimes.llamacpp import check_header
    from kanna.runtimes.llamacpp import library as functions

    lib = functions()
    check_header(Path(path))
    asked = draft_prompts.asked(prompts, tokens)
    room = draft_prompts.room(asked) + ahead
    made: list[tuple[int, int]] = []
    with LlamaDraftHead(lib, Path(path), context=room, threads=threads) as model:
        for one in asked:
            prompt = one.tokenized(model.tokenize, model.vocab_size)
            made += _steps(model, prompt, one.tokens, ahead)
    return figures(made, ahead) | {"computed_by": library().version}


def _steps(
    model: LlamaDraftHead, prompt: list[int], tokens: int, ahead: int
) -> list[tuple[int, int]]:
    """Steps of a model that writes after a prompt; the first token follows without a guess."""
    ids, states = model.write(prompt, tokens)
    read = 0

    def guess(known: int, count: int) -> Iterator[bool]:
        nonlocal read
        guessed = model.guesses(ids[:known], states[: known - 1], read, count)
        read = known
        return map(int.__eq__, guessed, ids[known : known + count])

    return steps(len(prompt) + 1, len(ids), guess, ahead)


if __name__ == "__main__":
    sys.exit(answer(measure))
