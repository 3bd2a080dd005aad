"""Distances between next-token distributions of a reference and candidates, full vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32

F64 = NDArray[np.float64]

# Values per work block: three float64 buffers of this length stay in a core's cache.
_BLOCK = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of n positions.

    Attributes:
        nll: −log probability of the true next token, in nats, f64 [n].
        kl: KL divergence, reference ‖ candidate, in nats, f64 [n].
        top1: Whether both find the same token likeliest, bool [n].
    """

    nll: F64
    kl: F64
    top1: NDArray[np.bool_]


def nll(logits: F32, targets: NDArray[np.int64], *, threads: int = 1) -> F64:
    """−log softmax(logits)[target] per row: logits f32 [n, vocab], targets [n] → f64 [n]."""
    return compare(logits, [], targets, threads=threads)[0]


def compare(
    reference: F32, candidates: Sequence[F32], targets: NDArray[np.int64], *, threads: int = 1
) -> tuple[F64, list[Scores]]:
    """Score candidates against the reference; all logits f32 [n, vocab], targets int [n].

    Returns the reference's own nll and one Scores per candidate. Everything is summed in float64: a
    KL of 1e-7 is still right to three digits. Rows are taken in blocks that fit the cache, so that
    nothing of full size is copied.
    """
    num_rows, vocab = reference.shape
    for logits in candidates:
        if logits.shape != reference.shape:
            raise ValueError(f"logits of {logits.shape} against a reference of {reference.shape}")
    step = max(1, _BLOCK // vocab)
    ref_nll = np.empty(num_rows)
    scored = [
        Scores(nll=np.empty(num_rows), kl=np.empty(num_rows), top1=np.empty(num_rows, bool))
        for _ in candidates
    ]

    def score(start: int) -> None:
        rows = slice(start, min(start + step, num_rows))
        index, target = np.arange(rows.stop - rows.start), targets[rows]
        logp, weight = _log_softmax(reference[rows])
        top = reference[rows].argmax(axis=1)
        ref_nll[rows] = -logp[index, target]
        for logits, scores in zip(candidates, scored, strict=True):
            logq, _ = _log_softmax(logits[rows])
            scores.nll[rows] = -logq[index, target]
            np.subtract(logp, logq, out=logq)
            # Rounding may push a zero a little below zero, which no divergence is.
            scores.kl[rows] = np.maximum(np.einsum("ij,ij->i", weight, logq), 0)
            scores.top1[rows] = logits[rows].argmax(axis=1) == top

    starts = range(0, num_rows, step)
    if threads > 1 and len(starts) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score, starts))
    else:
        for start in starts:
            score(start)
    return ref_nll, scored


def _log_softmax(logits: F32) -> tuple[F64, F64]:
    """Logarithms of probabilities, and probabilities, f64 [n, vocab] each."""
    logp = logits.astype(np.float64)
    logp -= logp.max(axis=1, keepdims=True)
    p = np.exp(logp)
    total = p.sum(axis=1, keepdims=True)
    logp -= np.log(total)
    p /= total
    return logp, p
