"""How many guesses of a drafter the model takes on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kanna.benchmark.drafting import AHEAD, figures, steps
from kanna.training.drafts.written_text import WrittenText


class Drafter(Protocol):
    """What guesses ahead of a model."""

    def guessed(self, text: WrittenText, ahead: int) -> Any:
        """Whether its guesses after each token are what was written, bool [len(ids) - 1, ahead]."""
        ...


def acceptance(drafter: Drafter, texts: Sequence[WrittenText]) -> dict[str, Any]:
    """Figures of speculative decoding over several texts, see `kanna.benchmark.drafting.figures`.

    Args:
        drafter: What guesses.
        texts: What the model wrote. The first token of each follows the prompt without a guess.
    """
    made: list[tuple[int, int]] = []
    for text in texts:
        right = drafter.guessed(text, AHEAD)
        made += steps(
            text.first + 1, len(text.ids), lambda place, count, r=right: r[place - 1, :count]
        )
    return figures(made, AHEAD)
