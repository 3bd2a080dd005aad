"""Predicted speed of a device: the slower of its memory and its arithmetic decides.

Generation reads every weight once per token, at the share of the bandwidth that was measured on the
device or one like it. A prompt multiplies every weight by many tokens at once: arithmetic alone
counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from kanna.hardware.targets.base import TargetChoice

OVERHEAD = 1e-3
"""Seconds of a step that no weight accounts for, as kanna measured them (`hardware`)."""
_BATCH = 512
"""Tokens of a prompt that llama.cpp takes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSpeed:
    """Tokens per second of one model on one backend, at a short context.

    Attributes:
        generation: Of tokens that are generated; None: the profile does not know the efficiency.
        prompt: Of tokens that are read; None: the profile does not know the arithmetic.
        error: Relative error of both; the truth is expected between a / (1 + error) and
            a * (1 + error).
    """

    generation: float | None
    prompt: float | None
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one token costs.

    Attributes:
        bytes_read: Bytes of weights that a generated token reads.
        weights: How many weights these are.
        head: How many of them are multiplied once per prompt alone, for its last token.
    """

    bytes_read: float
    weights: float
    head: float = 0.0


def predict(choice: TargetChoice, traffic: Traffic) -> PredictedSpeed:
    """Predict speed from what a token reads and multiplies; nothing where no figures are of it.

    Args:
        choice: The device and its backend.
        traffic: Of the model in its encodings.
    """
    backend = choice.backend
    prompt = generation = None
    if not choice.is_profiled:
        return PredictedSpeed(generation=None, prompt=None, error=None)
    if backend.gigaflops is not None and traffic.weights > traffic.head:
        operations = 2 * (traffic.weights - traffic.head)
        # A step takes a batch of tokens, which share what no weight accounts for.
        prompt = 1 / (OVERHEAD / _BATCH + operations / (backend.gigaflops.value * 1e9))
    if backend.efficiency is not None and traffic.bytes_read:
        seconds = traffic.bytes_read / (choice.bandwidth * backend.efficiency.value)
        if backend.gigaflops is not None:
            seconds = max(seconds, 2 * traffic.weights / (backend.gigaflops.value * 1e9))
        generation = 1 / (OVERHEAD + seconds)
    error = backend.error.value if backend.error is not None else None
    known = generation is not None or prompt is not None
    return PredictedSpeed(generation=generation, prompt=prompt, error=error if known else None)
