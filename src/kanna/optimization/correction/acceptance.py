"""Whether a corrected file is kept: on average closer, and for no kind of text worse.

Text that the network was not corrected on may lose what other text gains, so every kind of it is
judged by itself, the text that the model is evaluated on included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kanna.evaluation.stats import half_width
from kanna.optimization.kl_scorer import F64, SURE, Window

EVALUATED = "the evaluated text"
"""The kind of the text that the model is evaluated on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindOfText:
    """What a correction came to on one kind of text.

    Attributes:
        kind: Its name.
        windows: How many were read.
        before: Mean KL divergence of the artefact, in nats.
        after: The same of the corrected artefact.
        half: Half width of the 95 % interval of the difference; None with too few windows.
    """

    kind: str
    windows: int
    before: float
    after: float
    half: float | None

    @property
    def gains(self) -> bool:
        """Whether the divergence fell by more than about a standard error."""
        return self.half is not None and self.after - self.before < -SURE * self.half

    @property
    def loses(self) -> bool:
        """Whether it rose by more than that; at all, where there is no interval."""
        return self.after - self.before > SURE * (self.half or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What decides on a corrected file.

    Attributes:
        mean: Over all windows of held-out calibration text.
        kinds: Each kind of it, then the text that the model is evaluated on.
    """

    mean: KindOfText
    kinds: Sequence[KindOfText]

    @property
    def worse(self) -> list[KindOfText]:
        """Kinds of text that lose."""
        return [one for one in self.kinds if one.loses]

    @property
    def kept(self) -> bool:
        """Whether the mean gains and no kind of text loses."""
        return self.mean.gains and not self.worse


def judge(windows: Sequence[Window], before: F64, after: F64) -> Verdict:
    """Compare two files.

    Args:
        windows: Held-out calibration text, and some of kind EVALUATED.
        before: KL divergence of the artefact on each of them, in nats.
        after: The same of the corrected artefact.
    """
    at: dict[str, list[int]] = {}
    for number, (kind, _) in enumerate(windows):
        at.setdefault(kind, []).append(number)
    held = [number for kind, numbers in at.items() if kind != EVALUATED for number in numbers]
    return Verdict(
        mean=_compared("", before[held], after[held]),
        kinds=[_compared(kind, before[numbers], after[numbers]) for kind, numbers in at.items()],
    )


def _compared(kind: str, before: F64, after: F64) -> KindOfText:
    return KindOfText(
        kind=kind,
        windows=len(before),
        before=float(before.mean()),
        after=float(after.mean()),
        half=half_width(after - before),
    )
