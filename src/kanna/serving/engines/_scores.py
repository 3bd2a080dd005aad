"""Log-probabilities of tokens from logits, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kanna.model import F32


class Scorer:
    """Collects `{"text", "logprob", "top"}` per token of `ids`.

    Rows of logits come in order, one per position.

    Attributes:
        text: Of one id.
        top: How many of the likeliest to name.
    """

    def __init__(self, ids: Sequence[int], text: Callable[[int], str], top: int) -> None:
        self.ids, self.text, self.top = ids, text, top
        self.tokens: list[dict[str, Any]] = [{"text": text(ids[0]), "logprob": None, "top": []}]

    def rows(self, rows: F32) -> None:
        """logits after the next tokens, f32 [positions, vocab_size].

        Those after the last token are of no use.
        """
        at = len(self.tokens)
        rows = rows[: len(self.ids) - at]
        if not len(rows):
            return
        peak = rows.max(axis=1)
        total = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1, dtype=np.float64)).astype(
            np.float32
        )
        wanted = np.asarray(self.ids[at : at + len(rows)])
        values = rows[np.arange(len(rows)), wanted] - total
        best = self._best(rows)
        for i, token in enumerate(wanted.tolist()):
            top = [(self.text(int(b)), float(rows[i, b] - total[i])) for b in best[i]]
            self.tokens.append({"text": self.text(token), "logprob": float(values[i]), "top": top})

    def _best(self, rows: F32) -> Any:
        """Ids of the likeliest tokens of each row, likeliest first: int [positions, top]."""
        if self.top <= 1:
            return rows.argmax(axis=1)[:, None][:, : self.top]
        top = min(self.top, rows.shape[1])
        some = np.argpartition(rows, -top, axis=1)[:, -top:]
        order = np.argsort(-np.take_along_axis(rows, some, axis=1), axis=1, kind="stable")
        return np.take_along_axis(some, order, axis=1)
