"""The next token from logits, and the text that ends a generation.

For runtimes that leave both to us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kanna.model import F32


class StopText:
    """Holds back the end of the text while it may still become one of the stop strings."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Add text and return what can safely be shown."""
        self._held += text
        cuts = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if cuts:
            self.found = True
            shown, self._held = self._held[: min(cuts)], ""
            return shown
        keep = max(
            (n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])),
            default=0,
        )
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown

    def rest(self) -> str:
        rest, self._held = self._held, ""
        return rest


def sampler(
    *, temperature: float, seed: int | None, top_k: int, top_p: float, min_p: float
) -> Callable[[F32], int]:
    """A function of one row of logits, f32 [vocab], that picks a token; temperature 0 is greedy.

    The steps and their order are llama.cpp's: top-k, top-p, min-p, temperature, draw.
    """
    if temperature <= 0:
        return lambda logits: int(logits.argmax())
    random = np.random.default_rng(seed)

    def pick(logits: F32) -> int:
        count = min(top_k, len(logits)) if top_k > 0 else len(logits)
        best = np.argpartition(logits, len(logits) - count)[len(logits) - count :]
        best = best[np.argsort(-logits[best], kind="stable")]
        chance = _softmax(logits[best])
        # Everything up to and including the token that reaches top_p.
        best = best[: int(np.searchsorted(np.cumsum(chance), top_p)) + 1]
        chance = _softmax(logits[best])
        best = best[chance >= min_p * chance[0]]
        return int(random.choice(best, p=_softmax(logits[best] / temperature)))

    return pick


def _softmax(logits: F32) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    raised = np.exp(logits.astype(np.float64) - float(logits.max()))
    return raised / raised.sum()
