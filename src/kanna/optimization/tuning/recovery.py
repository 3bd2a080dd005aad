"""What tuning gives back on text of the domain: losses in the runtime, before and after.

A tuned artefact is kept where its loss falls on text of the domain that nothing was fitted to, and
where it keeps no less of a fine-tune than before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.calibration import texts
from kanna.calibration.windows import cut
from kanna.errors import UsageError
from kanna.evaluation.divergence import compare
from kanna.evaluation.reference import open_for_scoring, open_reference
from kanna.evaluation.stats import MIN_WINDOWS, half_width
from kanna.model import Model
from kanna.optimization.context import Workspace
from kanna.optimization.fine_tune import FineTune
from kanna.optimization.kl_scorer import F64, SURE, HeldOutWindows, Window

WINDOWS = 12
"""That decide, and as many that are reported and decided nothing."""
_SHARE = 4
"""One part in so many of a short text is left for both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLosses:
    """Losses on text of the domain, in nats per token.

    Attributes:
        source: Of the original, in float32.
        before: Of the artefact.
        after: Of the tuned artefact.
        half: Half width of the 95 % interval of the difference of the last two.
        windows: How many windows were read.
        tokens: Tokens that were scored.
    """

    source: float
    before: float
    after: float
    half: float | None
    windows: int
    tokens: int

    @property
    def falls(self) -> bool:
        """Whether the loss falls by more than about a standard error."""
        return self.half is not None and self.after - self.before < -SURE * self.half


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryResult:
    """What tuning gave back.

    Attributes:
        decided: Losses on the windows that decided.
        reported: The same on windows that decided nothing.
        retention: What both artefacts keep of a fine-tune, `before` and `after`; None without one.
        kl_before: Mean KL divergence of the artefact on the windows that decided, in nats.
        kl_after: The same of the tuned artefact.
    """

    decided: DomainLosses
    reported: DomainLosses
    retention: dict[str, Any] | None
    kl_before: F64
    kl_after: F64

    @property
    def kept(self) -> bool:
        """Whether the loss falls, and a fine-tune loses nothing more."""
        if self.retention is None:
            return self.decided.falls
        before, after = self.retention["before"], self.retention["after"]
        return self.decided.falls and after["artefact_loss"] < before["artefact_loss"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, without divergences, which the tuning has."""
        return {
            "decided": asdict(self.decided),
            "reported": asdict(self.reported),
            "retention": self.retention,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What judges a tuned artefact by text of the domain.

    Attributes:
        workspace: The original.
        held: Text of the domain that nothing was fitted to.
        fine_tune: The fine-tune that is optimized; None without an adapter.
    """

    workspace: Workspace
    held: HeldOutWindows
    fine_tune: FineTune | None

    def key(self) -> list[Any]:
        """What a verdict depends on beside the artefact and the windows that decide."""
        judging = [] if self.fine_tune is None else [one.ids for one in self.fine_tune.held_out]
        return ["recover", self.held.proof, judging]

    def judge(self, before: Path, after: Path) -> RecoveryResult:
        """Score an artefact and its tuned version in their runtime.

        Args:
            before: The artefact.
            after: The same, tuned.
        """
        progress, threads = self.workspace.context.progress, self.workspace.context.threads
        windows = [*self.held.trial, *self.held.proof]
        progress.start("recover", 2 * len(windows), "windows")
        first, second = (self._scores(path, windows, progress) for path in (before, after))
        progress.finish()
        retention: dict[str, Any] | None = None
        if self.fine_tune is not None:
            kept = self.fine_tune.measure([before, after], threads, progress)
            retention = dict(zip(("before", "after"), map(asdict, kept), strict=True))
        cut_at = len(self.held.trial)
        return RecoveryResult(
            decided=_losses(first[:, :cut_at], second[:, :cut_at], windows[:cut_at]),
            reported=_losses(first[:, cut_at:], second[:, cut_at:], windows[cut_at:]),
            retention=retention,
            kl_before=first[2, :cut_at],
            kl_after=second[2, :cut_at],
        )

    def _scores(self, path: Path, windows: Sequence[Window], progress: Progress) -> F64:
        """Of each window: loss of the original, loss of a file, KL divergence; f64 [3, windows]."""
        context, workspace = max(len(ids) for _, ids in windows), self.workspace
        threads = workspace.context.threads
        scores: list[list[float]] = []
        exact, _ = open_reference(workspace.source, [path], context=context, threads=threads)
        with exact, open_for_scoring(path, context=context, threads=threads)[0] as engine:
            for _, ids in windows:
                first = len(ids) // 2
                targets = np.array(ids[first + 1 :])
                wanted = exact.logits(ids, first=first, copy=False)[:-1]
                given = engine.logits(ids, first=first, copy=False)[:-1]
                nll, [score] = compare(wanted, [given], targets, threads=workspace.context.workers)
                scores.append([float(v.mean()) for v in (nll, score.nll, score.kl)])
                progress.advance(1)
        return np.array(scores).T


def _losses(before: F64, after: F64, windows: Sequence[Window]) -> DomainLosses:
    """Losses from scores [3, windows] of both files."""
    return DomainLosses(
        source=float(before[0].mean()),
        before=float(before[1].mean()),
        after=float(after[1].mean()),
        half=half_width(after[1] - before[1]),
        windows=len(windows),
        tokens=sum(len(ids) - len(ids) // 2 - 1 for _, ids in windows),
    )


def learned_tokens(model: Model, paths: Sequence[str | Path] | None, tokens: int) -> int:
    """Tokens to calibrate on so that enough of the domain's text is left to judge by.

    Args:
        model: Whose tokenizer cuts the text.
        paths: The text of the domain.
        tokens: That are asked for.

    Raises:
        UsageError: The text is too short to learn from some of it and to judge by the rest.
    """
    documents, _ = texts.documents(paths, model)
    ids = cut(documents, model, tokens=1 << 40).ids
    count, size = ids.shape
    left = min(2 * WINDOWS, count // _SHARE)
    if left < 2 * MIN_WINDOWS:
        raise UsageError(
            f"the text of the domain has {count * size:,} tokens",
            expected=f"at least {2 * MIN_WINDOWS * _SHARE * size:,} with --recover, which learns "
            "from most of it and is judged by the rest",
            todo="give more text with --calibration, or leave --recover out",
        )
    return min(tokens, (count - left) * size)
