"""What an evaluation returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.results import Result, ResultTable
from kanna.checks import ReferenceCheck
from kanna.closeness import grade_name
from kanna.tasks.pairing import TaskScore

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EvaluateResult(Result):
    """Figures of one artefact.

    KL is in nats, reference ‖ artefact; every `_ci` is the 95 % interval over windows, None for too
    few of them; percentages are fractions of 1.

    Attributes:
        path: The artefact.
        top1: Share of positions at which both find the same token likeliest.
        windows: Windows that were read.
        context: Tokens of each.
        positions: Positions that were scored, over all windows.
        tokens: Tokens that were read, over all windows.
        text: Name of the text.
        reference: What the artefact was compared with.
        seconds: Time it took.
        reference_check: Whether that computes what the source's own library does.
        tasks: How both models did on the tasks that were asked for.
        task_loss: Share of the tasks that was surely lost, see `certain_loss`; None: none asked.
        notes: Remarks on the text, the tasks and the runtimes.
    """

    path: str
    perplexity: float
    perplexity_ci: Interval | None
    reference_perplexity: float
    reference_perplexity_ci: Interval | None
    perplexity_ratio: float
    perplexity_ratio_ci: Interval | None
    kl_mean: float
    kl_mean_ci: Interval | None
    kl_median: float
    kl_p99: float
    kl_p999: float
    kl_max: float
    top1: float
    top1_ci: Interval | None
    windows: int
    context: int
    positions: int
    tokens: int
    text: str
    reference: str
    seconds: float
    reference_check: ReferenceCheck | None = None
    tasks: list[TaskScore] = field(default_factory=list[TaskScore])
    task_loss: float | None = None
    notes: list[str] = field(default_factory=list[str])

    def headline(self) -> str:
        """How close it is."""
        return (
            f"{Path(self.path).name}: KL {self.kl_mean:.5f}, "
            f"{self.top1:.1%} of next tokens the same"
        )

    def facts(self) -> list[tuple[str, object]]:
        """The figures, with their intervals."""
        return [
            ("KL divergence, mean", _with_interval(self.kl_mean, self.kl_mean_ci)),
            ("KL divergence, 99 %", f"{self.kl_p99:.5f}"),
            ("Same top token", _with_interval(self.top1, self.top1_ci)),
            ("Perplexity", _with_interval(self.perplexity, self.perplexity_ci)),
            ("Reference", self.reference),
            ("Reference check", self.reference_check and self.reference_check.sentence()),
            ("Text", f"{self.text}, {self.positions} positions"),
        ]

    def tables(self) -> list[ResultTable]:
        """The tasks, where any were asked."""
        rows = [(score.name, score.words()) for score in self.tasks]
        return [ResultTable(columns=("task", "solved"), rows=rows)] if rows else []

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON has them, with the grade of closeness."""
        figures = asdict(self)
        return figures | {"grade": grade_name(figures)}


def _with_interval(value: float, interval: Interval | None) -> str:
    around = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    return f"{value:.4f}{around}"
