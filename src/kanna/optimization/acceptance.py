"""Whether a changed file is kept: on average closer, and for no kind of text worse.

What fits the calibration text better may fit other text worse, and of a sum over kinds of text the
one that is farthest off decides: 0.02 nats less where it had 0.1 outweigh a doubling of 0.01. So
changes count by the ratio of divergences, and every kind of text is judged by itself, the text that
the model is evaluated on included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanna.evaluation.stats import MIN_WINDOWS, half_width
from kanna.optimization.kl_scorer import F64, SURE, Window

EVALUATED = "the evaluated text"
"""The kind of the text that the model is evaluated on."""
_LEAST = 1e-9
"""Nats below which a divergence is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfText:
    """What a change came to on one kind of text.

    Attributes:
        kind: Its name.
        windows: How many were read.
        before: Mean KL divergence of the file, in nats.
        after: The same of the changed file.
        half: Half width of the 95 % interval of the difference; None with too few windows.
        change: Mean over the windows of the logarithm of after ÷ before.
        error: Its standard error, by the spread of all windows about the mean of their kind; None
            with too few windows of all kinds.
    """

    kind: str
    windows: int
    before: float
    after: float
    half: float | None
    change: float
    error: float | None

    @property
    def gains(self) -> bool:
        """Whether the divergence fell, and its ratio by more than a standard error."""
        sure = self.error is not None and self.change < -self.error
        return sure and self.after < self.before

    @property
    def loses(self) -> bool:
        """Whether it, or its ratio, rose by more than that; at all, where there is no error."""
        rose = self.half is not None and self.after - self.before > SURE * self.half
        return rose or self.change > (self.error or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What decides on a changed file.

    Attributes:
        mean: Over all windows of held-out calibration text.
        kinds: Each kind of it, then the text that the model is evaluated on.
    """

    mean: KindOfText
    kinds: Sequence[KindOfText]

    @property
    def worse(self) -> list[str]:
        """Kinds of text that lose."""
        return [one.kind for one in self.kinds if one.loses]

    @property
    def kept(self) -> bool:
        """Whether the mean gains and no kind of text loses."""
        return self.mean.gains and not self.worse


def judge(windows: Sequence[Window], before: F64, after: F64) -> Verdict:
    """Compare two files.

    Args:
        windows: Held-out calibration text, and some of kind EVALUATED.
        before: KL divergence of the file on each of them, in nats.
        after: The same of the changed file.
    """
    at: dict[str, list[int]] = {}
    for number, (kind, _) in enumerate(windows):
        at.setdefault(kind, []).append(number)
    ratios = log_ratios(before, after)
    within = len(ratios) - len(at)
    spread = sum(float(((ratios[n] - ratios[n].mean()) ** 2).sum()) for n in at.values())
    deviation = math.sqrt(spread / within) if within >= MIN_WINDOWS - 1 else None

    def compared(kind: str, numbers: list[int]) -> KindOfText:
        was, now = before[numbers], after[numbers]
        return KindOfText(
            kind=kind,
            windows=len(numbers),
            before=float(was.mean()),
            after=float(now.mean()),
            half=half_width(now - was),
            change=float(ratios[numbers].mean()),
            error=None if deviation is None else deviation / math.sqrt(len(numbers)),
        )

    held = [number for kind, numbers in at.items() if kind != EVALUATED for number in numbers]
    return Verdict(mean=compared("", held), kinds=[compared(*one) for one in at.items()])


def log_ratios(before: F64, after: F64) -> F64:
    """Logarithms of after ÷ before, f64 [windows]."""
    return np.log(np.maximum(after, _LEAST) / np.maximum(before, _LEAST))
