"""What a comparison finds, and the pick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from kanna import __version__
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.checks import gate_word
from kanna.formats import DEFAULT
from kanna.recommendation import (
    KNEE,
    RULE,
    RULE_ACROSS,
    Candidate,
    Recommendation,
    Rule,
    SourceFacts,
    knee,
)
from kanna.recommendation import recommend as pick_by
from kanna.sizing.closeness import MeasuredCloseness

__all__ = ["KNEE", "RULE", "RULE_ACROSS", "CompareResult", "Row", "recommend", "verdict"]


@dataclass(slots=True, kw_only=True)
class Row:
    """One artefact (role `baseline` or `candidate`) or the `floor`.

    None where nothing was measured.

    Attributes:
        speedup, less_memory: Against the baseline; top1 and less_memory are fractions of 1.
        grade: How close it is, see `kanna.closeness`.
        speed_spread: Lowest and highest value of each figure of the speed test over its rounds.
        speedup_spread: Lowest and highest ratio of rounds that followed each other.
        rounds: Rounds of the speed test; one says nothing of noise.
        retention: What it keeps of a fine-tune's gain, see `kanna.checks.Retention`.
        beside: The same of each `adapter` that lies beside it in a `file`; then `retention` is
            that of the one that keeps least.
        tasks: How it did on the tasks that guard it, see `kanna.tasks.pairing.TaskScore`.
        task_loss: Share of them that it surely lost.
        busy: Share of the processors that other programs took meanwhile; None: not known.
    """

    name: str
    role: str
    preset: str = ""
    format: str = DEFAULT
    path: str | None = None
    file: str | None = None
    file_bytes: int | None = None
    bits_per_weight: float | None = None
    nominal_bits: float | None = None
    precision_class: str = ""
    gate: str | None = None
    checks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    kl_mean: float | None = None
    kl_mean_ci: Sequence[float] | None = None
    kl_median: float | None = None
    kl_p99: float | None = None
    kl_p999: float | None = None
    top1: float | None = None
    top1_ci: Sequence[float] | None = None
    grade: str | None = None
    perplexity: float | None = None
    perplexity_ci: Sequence[float] | None = None
    perplexity_ratio: float | None = None
    perplexity_ratio_ci: Sequence[float] | None = None
    load_s: float | None = None
    peak_bytes: int | None = None
    ttft_s: float | None = None
    prompt_tps: float | None = None
    gen_tps: float | None = None
    joules_per_token: float | None = None
    speed_spread: dict[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    rounds: int | None = None
    busy: float | None = None
    speedup: float | None = None
    speedup_spread: Sequence[float] | None = None
    less_memory: float | None = None
    retention: dict[str, Any] | None = None
    beside: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    task_loss: float | None = None
    reused: bool = False
    seconds: float | None = None
    command: str = ""
    substitutions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tensors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])


@dataclass(slots=True, kw_only=True, repr=False)
class CompareResult(Result):
    """Everything the report shows.

    `to_dict` is report.json. optimize: what `kanna optimize` adds, or {}.

    Attributes:
        unfinished: What it is `doing` now, and whether it was `stopped`; {} when all is measured.
        pairs: Artefacts of different formats of nearly as many bytes, see `kanna.comparison.pairs`.
    """

    name: str
    source: dict[str, Any]
    rows: list[Row]
    recommended: dict[str, Any]
    evaluation: dict[str, Any]
    environment: dict[str, str]
    command: str
    notes: list[str]
    report: str
    optimize: dict[str, Any] = field(default_factory=dict[str, Any])
    pairs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    unfinished: dict[str, Any] = field(default_factory=dict[str, Any])
    version: str = __version__
    date: str = field(default_factory=lambda: date.today().isoformat())

    @property
    def ok(self) -> bool:
        """Whether no file failed the gate."""
        return all(row.gate != "failed" for row in self.rows)

    def headline(self) -> str:
        """The recommendation."""
        return (
            f"{self.name}: {self.recommended.get('name') or 'no recommendation'}. "
            f"{self.recommended.get('why', '')}"
        ).rstrip()

    def chart(self) -> str:
        """Size and closeness of every file."""
        from kanna.report.notebook import notebook_chart

        return notebook_chart(self.to_dict())

    def tables(self) -> list[ResultTable]:
        """Every file."""
        rows = [
            (
                "★" if r.name == self.recommended.get("name") else "",
                r.name,
                None if r.file_bytes is None else format_size(r.file_bytes),
                None if r.kl_mean is None else f"{r.kl_mean:.5f}",
                None if r.top1 is None else f"{r.top1:.1%}",
                None if r.gen_tps is None else f"{r.gen_tps:.1f}",
                gate_word(r.gate),
            )
            for r in self.rows
        ]
        columns = ("", "file", "size>", "KL>", "same next token>", "tokens/s>", "checks")
        return [ResultTable(columns=columns, rows=rows)]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def recommend(rows: Sequence[Row], source: SourceFacts | None = None) -> dict[str, Any]:
    """The pick by the knee of size and closeness, why, and the rule in words."""
    return as_json(verdict(rows, source, knee))


def verdict(rows: Sequence[Row], source: SourceFacts | None, rule: Rule) -> Recommendation:
    """The recommendation among the candidates that were measured."""
    measured = [r for r in rows if r.role == "candidate" and r.kl_mean is not None]
    failed = [r for r in rows if r.role == "candidate" and r.gate == "failed"]
    candidates = [candidate(r) for r in measured if r.file_bytes]
    if not candidates or len(failed) == len([r for r in rows if r.role == "candidate"]):
        if source is not None and source.stays:
            return pick_by(candidates, source, rule)
        why = "No file was both measured and free of failed checks."
        return Recommendation(name=None, why=why, rule=RULE)
    return pick_by(candidates, source, rule)


def measured(rows: Sequence[Row], format: str) -> dict[str, MeasuredCloseness]:
    """What was measured of the files of a format that did not fail, by preset."""
    return {
        row.name: MeasuredCloseness(kl_mean=row.kl_mean, top1=row.top1)
        for row in rows
        if row.role == "candidate" and row.format == format and row.gate != "failed"
        if row.kl_mean is not None
    }


def candidate(row: Row) -> Candidate:
    """What a recommendation goes by."""
    speed = row.speed_spread.get("gen_tps")
    if row.rounds == 1 and row.gen_tps:
        speed = (row.gen_tps / _UNKNOWN, row.gen_tps * _UNKNOWN)
    return Candidate(
        name=row.name,
        file_bytes=row.file_bytes or 0,
        format=row.format,
        bits_per_weight=row.bits_per_weight,
        gate=row.gate,
        kl_mean=row.kl_mean,
        top1=row.top1,
        gen_tps=row.gen_tps,
        speed=(speed[0], speed[1]) if speed else None,
        peak_bytes=row.peak_bytes,
    )


_UNKNOWN = 1.5
"""How far a speed that was measured once may be off, either way."""


def as_json(verdict: Recommendation) -> dict[str, Any]:
    """As a report has it."""
    return {
        "name": verdict.name or "",
        "why": verdict.why,
        "rule": verdict.rule,
        "keep_source": verdict.keep_source,
    }
