"""Chooses the next token from logits, in numpy.

Temperature, nucleus, penalties, biases, grammar, log-probabilities.
"""

from __future__ import annotations

import numpy as np

from kanna.model import F32
from kanna.serving.engines._jobs import GeneratedToken, GenerationJob

COLDEST = 1e-3
"""Below this temperature the likeliest token is taken: the exponents would overflow."""


class TokenSampler:
    """The state of one job: its random numbers and the tokens it has generated."""

    def __init__(self, job: GenerationJob) -> None:
        self.job, self.parameters = job, job.sampling
        seed = self.parameters.seed
        self._random = np.random.default_rng(None if seed is None else seed % 2**63)
        self._counts: dict[int, int] = {}
        self._remaining = job.max_tokens

    def choose(self, logits: F32) -> GeneratedToken:
        """The next token from logits, f32 [vocab_size], which are changed in place."""
        job = self.job
        unadjusted = logits.copy() if job.top is not None else logits
        self._adjust(logits)
        greedy = self.parameters.temperature < COLDEST
        token = GeneratedToken(id=int(logits.argmax()) if greedy else self._draw(logits))
        if job.top is not None:
            peak = float(unadjusted.max())
            log_sum = peak + float(np.log(np.exp(unadjusted - peak).sum(dtype=np.float64)))
            set_logprobs(token, unadjusted, job.top, log_sum)
        self._counts[token.id] = self._counts.get(token.id, 0) + 1
        self._remaining -= 1
        if job.grammar is not None and token.id not in job.end_ids:
            job.grammar.accept(token.id)
        if token.id in job.end_ids:
            token.finish_reason = "stop"
        elif self._remaining <= 0:
            token.finish_reason = "length"
        return token

    def _adjust(self, logits: F32) -> None:
        """Apply biases, penalties and the grammar."""
        options = self.parameters
        for token, value in options.bias.items():
            if 0 <= token < len(logits):
                logits[token] += value
        penalized = options.frequency or options.presence or options.repetition != 1
        if self._counts and penalized:
            generated = np.fromiter(self._counts, np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            if options.repetition != 1:
                values = logits[generated]
                logits[generated] = np.where(
                    values > 0, values / options.repetition, values * options.repetition
                )
            logits[generated] -= counts * options.frequency + options.presence
        if self.job.grammar is not None:
            logits[~self.job.grammar.allowed(len(logits))] = -np.inf

    def _draw(self, logits: F32) -> int:
        """A random token after temperature, top-k, min-p and top-p."""
        options = self.parameters
        scaled = logits.astype(np.float64) / options.temperature
        ids = np.arange(len(scaled))
        if 0 < options.top_k < len(scaled):
            ids = np.argpartition(scaled, -options.top_k)[-options.top_k :]
        weights = np.exp(scaled[ids] - scaled[ids].max())
        if options.min_p > 0:
            likely = weights >= options.min_p  # the likeliest has weight 1
            ids, weights = ids[likely], weights[likely]
        weights /= weights.sum()
        if options.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            # The first token that reaches top_p is still in.
            order = order[: int(np.searchsorted(np.cumsum(weights[order]), options.top_p)) + 1]
            ids, weights = ids[order], weights[order] / weights[order].sum()
        drawn = int(np.searchsorted(np.cumsum(weights), self._random.random(), side="right"))
        return int(ids[min(drawn, len(ids) - 1)])


def set_logprobs(token: GeneratedToken, scores: F32, top: int, log_sum: float = 0.0) -> None:
    """Give a token its log-probability and those of the `top` likeliest.

    Args:
        token: The one that was chosen.
        scores: Logits as the model has them, or log-probabilities: f32 [vocab_size].
        top: How many of the likeliest to name.
        log_sum: Log of the sum of the exponents of `scores`; 0 for log-probabilities.
    """
    token.logprob = float(scores[token.id]) - log_sum
    top = min(top, len(scores))
    if top:
        best = np.argpartition(scores, -top)[-top:]
        order = best[np.argsort(-scores[best], kind="stable")]
        token.top = [(int(i), float(scores[i]) - log_sum) for i in order]
