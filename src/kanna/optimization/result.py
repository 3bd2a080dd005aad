"""What an optimization returns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna._util.bars import duration
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.optimization.accuracy_levels import level_words
from kanna.optimization.times import TIME_COLUMNS, time_rows, total
from kanna.tasks.pairing import certain_loss, from_json


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OptimizeResult(Result):
    """What was made, and the proof.

    Attributes:
        artefact: The file or folder to use; file_bytes ≤ budget, and what a guard spent.
        said: The budget in the user's words.
        encodings: How many tensors have each encoding.
        predicted: Nats of KL divergence that the plan was expected to cost.
        kl_mean: In the real runtime, on held-out text.
        grade: How close that is, see `kanna.closeness`.
        advice: What speaks against using the file; None: nothing.
        rival: The best plain preset within the budget, and rival_kl its divergence.
        plan: The plan file.
        seconds: By stage.
        swaps: How many trials of other plans were made and kept, and the divergence before and
            after on the text that decided and on text that did not; None where none were made.
        accuracy: Which kinds of products read their inputs in floats, and what rounding those of
            each costs, see `kanna.optimization.accuracy_levels.AccuracyResult`; None: not measured.
        correction: What choosing values again by what quantized layers before them give came to,
            for each kind of text; None where it was not tried.
        tuning: What tuning scales and norms came to; None where it was not tried.
        memory: With `memory`: the limit, the encoding of the cache and why, bytes predicted and
            measured; see docs/optimize.md.
        speed: With `min_speed` or an `objective`: what was asked for, tokens per second predicted
            and measured of every file, and the least divergence at other speeds.
        target: With `target`: its encodings, tensors of the file outside them, predicted speed.
        provider: With `provider` and fixed shapes: nodes of each graph that it takes by its table,
            products outside it, and how many matrices have each encoding there.
        reference_check: Whether the reference computes what the source's own library does, as
            `evaluate` has it.
        retention: With an adapter: what the file keeps of its gain, see `kanna.checks.Retention`.
        beside: With adapters apart: of each, its `adapter`, its `file`, and what it keeps of its
            gain beside the artefact; `retention` is then that of the one that keeps least.
        tasks: How it did on the tasks that guard it; `task_loss` in JSON is what it surely lost.
        guard: With tasks that guard it: whether they hold, and the bytes that were spent beyond the
            budget for that, see `kanna.optimization.guard_spending.GuardSpending`.
        left: Artefacts of earlier runs in the same folder.
        times: By stage: seconds and CPU seconds that were predicted and taken, memory and disk that
            it was expected to need.
        time_budget: With a time budget: its seconds, what was chosen by it, and the seconds that
            were predicted.
        device: Where torch calibrated; None: nothing was calibrated. Numbers of another device
            differ in the last place.
        dry_run: Whether nothing was made, and only `times` and `time_budget` are known.
    """

    artefact: str
    file_bytes: int
    budget: int
    said: str
    bits_per_weight: float
    encodings: dict[str, int]
    predicted: float
    kl_mean: float | None
    top1: float | None
    rival: str | None
    rival_kl: float | None
    gate: str | None
    report: str
    plan: str
    statistics: str
    seconds: dict[str, float]
    swaps: dict[str, Any] | None = None
    accuracy: dict[str, Any] | None = None
    correction: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    speed: dict[str, Any] | None = None
    retention: dict[str, Any] | None = None
    beside: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    guard: dict[str, Any] | None = None
    grade: str | None = None
    advice: str | None = None
    target: dict[str, Any] | None = None
    provider: dict[str, Any] | None = None
    reference_check: dict[str, Any] | None = None
    left: list[str] = field(default_factory=list[str])
    times: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    time_budget: dict[str, Any] | None = None
    device: str | None = None
    dry_run: bool = False
    notes: list[str] = field(default_factory=list[str])

    @property
    def ok(self) -> bool:
        """Whether the file did not fail the gate."""
        return self.gate != "failed"

    def headline(self) -> str:
        """What was made."""
        if self.dry_run:
            return f"{self.artefact}: about {duration(total(self.times, 'predicted_seconds'))}"
        return f"{self.artefact}, {format_size(self.file_bytes)} of {format_size(self.budget)}" + (
            f", KL {self.kl_mean:.5f}" if self.kl_mean is not None else ""
        )

    def facts(self) -> list[tuple[str, object]]:
        """Size, closeness, and the plain preset it was up against."""
        if self.dry_run:
            return [("Time", duration(total(self.times, "predicted_seconds")))]
        return [
            ("File", self.artefact),
            ("Size", f"{format_size(self.file_bytes)} of {format_size(self.budget)}"),
            ("Closeness", self.grade),
            ("Inputs", level_words(self.accuracy)),
            ("Recovery", recovery_words(self.tuning)),
            *kept_facts(self.retention, self.beside),
            *((f"Task {s.name}", s.words()) for s in from_json(self.tasks)),
            ("Guard", guard_words(self.guard)),
            ("Provider", placed_words(self.provider)),
            ("Plain preset", self.rival),
            ("Report", self.report),
        ]

    def chart(self) -> str:
        """Size and closeness of every file in the report."""
        from kanna.report.notebook import notebook_chart

        data = Path(self.report).with_suffix(".json")
        return notebook_chart(json.loads(data.read_text("utf-8"))) if data.is_file() else ""

    def tables(self) -> list[ResultTable]:
        """How many matrices have each encoding; of a dry run, every stage."""
        if self.dry_run:
            return [ResultTable(columns=TIME_COLUMNS, rows=time_rows(self.times))]
        return [ResultTable(columns=("encoding", "tensors>"), rows=[*self.encodings.items()])]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"task_loss": certain_loss(from_json(self.tasks))}


def guard_words(spending: Mapping[str, Any] | None) -> str:
    """What tasks that guard a file came to, a sentence and what to do; "" without any.

    Args:
        spending: As JSON has it.
    """
    if spending is None:
        return ""
    return spending["why"] + (f"; {spending['todo']}" if spending["todo"] else "")


def placed_words(provider: Mapping[str, Any] | None) -> str:
    """`qnn: 0 products outside its table; decode.onnx: 1103 of 1106 nodes …`; "" without one.

    Args:
        provider: As JSON has it.
    """
    if provider is None:
        return ""
    graphs = "; ".join(f"{name}: {taken}" for name, taken in provider["graphs"].items())
    return f"{provider['name']}: {provider['outside']} products outside its table; {graphs}"


def count_encodings(tensors: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many tensors have each encoding, the most frequent first."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor["encoding"]] = counts.get(tensor["encoding"], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def recovery_words(tuning: Mapping[str, Any] | None) -> str:
    """`loss 2.1034 → 2.0511 on held-out text of the domain (original 2.0021)`; "" where not tried.

    The figures are those of text that decided nothing.
    """
    recovery = (tuning or {}).get("recovery")
    if recovery is None or tuning is None:
        return ""
    losses = (
        "loss {before:.4f} → {after:.4f} on held-out text of the domain (original {source:.4f})"
    )
    return losses.format(**recovery["reported"]) + ("" if tuning["kept"] else ", not kept")


def kept_facts(
    retention: Mapping[str, Any] | None, beside: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """What is kept of a fine-tune, or of each adapter beside the file, and where that lies.

    Args:
        retention: As JSON has it; None without an adapter.
        beside: The same of each adapter apart.
    """
    if not beside:
        return [("Kept of the fine-tune", kept_words(retention))]
    return [(f"Kept of {one['adapter']}", f"{kept_words(one)}; {one['file']}") for one in beside]


def kept_words(retention: Mapping[str, Any] | None) -> str:
    """`98.2% (96.1% to 99.9%) of its gain on 30 held-out examples`; "" without a fine-tune."""
    if retention is None:
        return ""
    if retention["share"] is None:
        return "not measurable: the adapter gained nothing on its held-out examples"
    interval = retention["interval"]
    around = f" ({interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
    return (
        f"{retention['share']:.1%}{around} of its gain on {retention['examples']} held-out examples"
    )
