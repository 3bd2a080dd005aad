"""Chooses the next token from logits, in numpy.

Temperature, nucleus, penalties, biases, grammar, log-probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.model import F32
from kanna.serving.engines._jobs import Job, Token


class Sampler:
    """State of one job: its random numbers and what it said already."""

    def __init__(self, job: Job) -> None:
        self.job, self.how = job, job.sampling
        self._random = np.random.default_rng(
            None if self.how.seed is None else self.how.seed % 2**63
        )
        self._counts: dict[int, int] = {}
        self._left = job.max_tokens

    def choose(self, logits: F32) -> Token:
        """The next token from logits, f32 [vocab_size], which are changed."""
        before = logits.copy() if self.job.top is not None else logits
        self._adjust(logits)
        if self.how.temperature <= 0:
            chosen = int(logits.argmax())
        else:
            chosen = self._draw(logits)
        token = Token(id=chosen)
        if self.job.top is not None:
            _name(token, before, self.job.top)
        self._counts[chosen] = self._counts.get(chosen, 0) + 1
        self._left -= 1
        if self.job.guide is not None and chosen not in self.job.eog:
            self.job.guide.consume_token(chosen)
        if chosen in self.job.eog:
            token.end = "stop"
        elif self._left <= 0:
            token.end = "length"
        return token

    def _adjust(self, logits: F32) -> None:
        how = self.how
        for token, value in how.bias.items():
            if token < len(logits):
                logits[token] += value
        if self._counts and (how.frequency or how.presence or how.repetition != 1):
            said = np.fromiter(self._counts, np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            if how.repetition != 1:
                values = logits[said]
                logits[said] = np.where(
                    values > 0, values / how.repetition, values * how.repetition
                )
            logits[said] -= counts * how.frequency + how.presence
        if self.job.guide is not None:
            logits[~allowed(self.job.guide, len(logits))] = -np.inf

    def _draw(self, logits: F32) -> int:
        how = self.how
        scaled = logits.astype(np.float64) / how.temperature
        kept = np.arange(len(scaled))
        if 0 < how.top_k < len(scaled):
            kept = np.argpartition(scaled, -how.top_k)[-how.top_k :]
        values = np.exp(scaled[kept] - scaled[kept].max())
        if how.min_p > 0:
            enough = values >= how.min_p  # the likeliest is 1
            kept, values = kept[enough], values[enough]
        values /= values.sum()
        if how.top_p < 1:
            order = np.argsort(-values, kind="stable")
            # The first that reaches top_p is still in.
            order = order[: int(np.searchsorted(np.cumsum(values[order]), how.top_p)) + 1]
            kept, values = kept[order], values[order] / values[order].sum()
        at = int(np.searchsorted(np.cumsum(values), self._random.random(), side="right"))
        return int(kept[min(at, len(kept) - 1)])


def allowed(guide: Any, vocab_size: int) -> Any:
    """Which tokens a grammar lets come next: bool [vocab_size]."""
    bits = np.frombuffer(guide.compute_bitmask(), np.uint8)
    found = np.zeros(vocab_size, bool)
    unpacked = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)
    found[: len(unpacked)] = unpacked
    return found


def _name(token: Token, logits: F32, top: int) -> None:
    """Log-probabilities before any of the choices above, as the model has them."""
    peak = float(logits.max())
    total = peak + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    token.logprob = float(logits[token.id]) - total
    if top:
        some = np.argpartition(logits, -top)[-top:]
        order = some[np.argsort(-logits[some], kind="stable")]
        token.top = [(int(i), float(logits[i]) - total) for i in order]
