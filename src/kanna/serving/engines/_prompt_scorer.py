"""Log-probabilities of a prompt's tokens from logits, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32


class PromptScorer:
    """Collects `{"text", "logprob", "top"}` per token of a prompt.

    Args:
        ids: The prompt, not empty.
        text_of: The text of one id.
        top: How many of the likeliest tokens to name.

    Attributes:
        tokens: The entries so far; the first has no log-probability.
    """

    def __init__(self, ids: Sequence[int], text_of: Callable[[int], str], top: int) -> None:
        self.ids, self.text_of, self.top = ids, text_of, top
        self.tokens: list[dict[str, Any]] = [{"text": text_of(ids[0]), "logprob": None, "top": []}]

    def add(self, rows: F32) -> None:
        """Score the next tokens by the logits before them, f32 [positions, vocab_size].

        Rows come in order; the row after the last token is not used.
        """
        start = len(self.tokens)
        rows = rows[: len(self.ids) - start]
        if not len(rows):
            return
        peak = rows.max(axis=1)
        log_sum = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1, dtype=np.float64)).astype(
            np.float32
        )
        next_ids = np.asarray(self.ids[start : start + len(rows)])
        logprobs = rows[np.arange(len(rows)), next_ids] - log_sum
        likeliest = self._likeliest(rows)
        for i, token in enumerate(next_ids.tolist()):
            top = [(self.text_of(int(b)), float(rows[i, b] - log_sum[i])) for b in likeliest[i]]
            entry = {"text": self.text_of(token), "logprob": float(logprobs[i]), "top": top}
            self.tokens.append(entry)

    def _likeliest(self, rows: F32) -> NDArray[np.intp]:
        """Ids of the likeliest tokens of each row, likeliest first: [positions, top]."""
        if self.top <= 1:
            return rows.argmax(axis=1)[:, None][:, : self.top]
        top = min(self.top, rows.shape[1])
        best = np.argpartition(rows, -top, axis=1)[:, -top:]
        order = np.argsort(-np.take_along_axis(rows, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)
