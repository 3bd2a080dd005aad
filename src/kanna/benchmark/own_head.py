"""How many tokens that a model's own head for further tokens guesses are those that it writes.

`python -m kanna.benchmark.own_head '{"path": …}'` prints one JSON object. The model writes a text,
always the likeliest token, and its head guesses ahead after each step as llama-server's
`--spec-type draft-mtp` does. Both are computed by llama.cpp from the file that is measured.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kanna._util.processes import answer
from kanna.benchmark.drafting import AHEAD, PROMPT, figures


def measure(path: str, *, tokens: int, threads: int, ahead: int = AHEAD) -> dict[str, Any]:
    """Write `tokens` tokens with the model at `path`, and guess them with its head."""
    from kanna.libllama import library
    from kanna.runtimes.llama_draft_head import LlamaDraftHead
    from kanna.runtimes.llamacpp import check_header
    from kanna.runtimes.llamacpp import library as functions

    lib = functions()
    check_header(Path(path))
    room = 2 * len(PROMPT) + tokens + ahead
    with LlamaDraftHead(lib, Path(path), context=room, threads=threads) as model:
        prompt = model.tokenize(PROMPT, add_bos=True)
        ids, states = model.write(prompt, tokens)
        steps: list[tuple[int, int]] = []
        known, read = len(prompt) + 1, 0  # the first token follows the prompt without a guess
        while known < len(ids):
            wanted = ids[known : known + ahead]
            guessed = model.guesses(ids[:known], states[: known - 1], read, len(wanted))
            held = [*map(int.__eq__, guessed, wanted), False].index(False)
            steps.append((len(wanted), held))
            read, known = known, known + held + 1
    return figures(steps, ahead) | {"computed_by": library().version}


if __name__ == "__main__":
    sys.exit(answer(measure))
