"""Sampling and stop strings, for runtimes that leave both to their caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kanna.model import F32
from kanna.runtimes.base import Sampling


class StopText:
    """Holds back the end of the text while it may still become one of the stop strings.

    Attributes:
        stopped: Whether one of them came.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
        self._pending = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text and return what can safely be printed."""
        self._pending += text
        cuts = [at for s in self._stop if (at := self._pending.find(s)) >= 0]
        if cuts:
            self.stopped = True
            visible, self._pending = self._pending[: min(cuts)], ""
            return visible
        keep = max(
            (n for s in self._stop for n in range(1, len(s)) if self._pending.endswith(s[:n])),
            default=0,
        )
        visible, self._pending = (
            self._pending[: len(self._pending) - keep],
            self._pending[len(self._pending) - keep :],
        )
        return visible

    def rest(self) -> str:
        """Return what is still held back when the text has ended."""
        pending, self._pending = self._pending, ""
        return pending


def sampler(sampling: Sampling) -> Callable[[F32], int]:
    """A function of one row of logits, f32 [vocab], that picks a token.

    The steps and their order are llama.cpp's: top-k, top-p, min-p, temperature, draw.
    """
    if sampling.temperature <= 0:
        return lambda logits: int(logits.argmax())
    random = np.random.default_rng(sampling.seed)

    def pick(logits: F32) -> int:
        count = min(sampling.top_k, len(logits)) if sampling.top_k > 0 else len(logits)
        best = np.argpartition(logits, len(logits) - count)[len(logits) - count :]
        best = best[np.argsort(-logits[best], kind="stable")]
        probability = _softmax(logits[best])
        # All up to and including the token that reaches top_p.
        best = best[: int(np.searchsorted(np.cumsum(probability), sampling.top_p)) + 1]
        probability = _softmax(logits[best])
        best = best[probability >= sampling.min_p * probability[0]]
        return int(random.choice(best, p=_softmax(logits[best] / sampling.temperature)))

    return pick


def _softmax(logits: F32) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    raised = np.exp(logits.astype(np.float64) - float(logits.max()))
    return raised / raised.sum()
