"""The artefacts within the budget: gated, evaluated, and one of them chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kanna._util.units import format_size
from kanna.comparison.gate import gate
from kanna.comparison.quality import measure_quality, setting, take_quality
from kanna.comparison.rows import Row
from kanna.comparison.speed import measure_speed
from kanna.evaluation import evaluate_many
from kanna.optimization.adapters.base import Adapter, ArtefactSpec
from kanna.optimization.job import Allocation, Job, Proof, Written
from kanna.optimization.tuning import distillation
from kanna.optimization.tuning.distillation import TuningResult
from kanna.verification import verify


def final_rows(
    adapter: Adapter, allocation: Allocation, written: Written, tuned: TuningResult | None
) -> list[Row]:
    """The rows of the report: the optimized artefact, the tuned one if it is closer, the preset."""
    optimized, *baselines = written.rows
    if allocation.local_search is not None:  # it may have replaced the artefact
        now = adapter.describe(written.specs[0])
        optimized = replace(now, reused=optimized.reused, seconds=optimized.seconds)
    rows = [optimized]
    if tuned is not None and tuned.kept:
        spec = ArtefactSpec(
            name=distillation.NAME,
            path=adapter.artefact(distillation.NAME),
            plan=adapter.file(distillation.PLAN),
        )
        rows.append(adapter.describe(spec))
    return [*rows, *baselines]


def prove(job: Job, rows: Sequence[Row]) -> Proof:
    """Gate and evaluate; of those not refused, that of least KL divergence is recommended."""
    return _prove_all(job, rows) if job.adapter.compares else _prove_closest(job, rows)


def _prove_all(job: Job, rows: Sequence[Row]) -> Proof:
    """Gate, quality and speed of every row, as in a comparison."""
    context = replace(
        job.adapter.comparison_context(), text=job.request.text, windows=job.request.windows
    )
    for row in rows:
        gate(row, context)
    evaluation, notes = measure_quality(rows, context)
    job.context.note(*notes, *measure_speed(rows, context, repeat=1))
    return Proof(rows=rows, recommended=recommend(rows), evaluation=evaluation)


def _prove_closest(job: Job, rows: Sequence[Row]) -> Proof:
    """Quality of every row, and the gate of the closest one that it does not refuse."""
    context, source = job.context, job.workspace.source
    scores = evaluate_many(
        [row.path or "" for row in rows],
        reference=source,
        text=job.request.text,
        windows=job.request.windows,
        threads=context.threads,
        progress=context.progress,
    )
    for row, score in zip(rows, scores, strict=True):
        take_quality(row, score.to_dict())
    for row in sorted(rows, key=lambda row: row.kl_mean or 0.0):
        checked = verify(
            source, row.path or "", threads=context.threads, progress=context.progress
        ).to_dict()
        row.gate, row.checks = checked["status"], checked["checks"]
        if row.gate != "failed":
            break
    context.note(*(note for score in scores for note in score.notes))
    recommended = recommend(rows)
    tuned = next((row for row in rows if row.name == distillation.NAME), None)
    if tuned is not None and recommended["name"] != tuned.name:
        refused = tuned.gate == "failed"
        why = "the gate refused it" if refused else "its runtime found another closer"
        context.note(
            f"tuning brought the values closer, but {why}: the tuned folder is not the one to use"
        )
    return Proof(rows=rows, recommended=recommended, evaluation=setting(scores[0].to_dict()))


def recommend(rows: Sequence[Row]) -> dict[str, str]:
    """The row of least KL divergence that the gate did not refuse, and why."""
    able = [r for r in rows if r.gate != "failed"] or rows
    best = min(able, key=lambda r: (r.kl_mean is None, r.kl_mean or 0.0))
    other = next((r for r in rows if r is not best), None)
    why = f"{format_size(best.file_bytes or 0)}"
    if best.kl_mean is not None:
        why += f" at a mean KL divergence of {best.kl_mean:.4f} nats"
    if other is not None and other.kl_mean is not None:
        why += f"; {other.name}, {format_size(other.file_bytes or 0)}, has {other.kl_mean:.4f}"
    return {
        "name": best.name,
        "why": why + ".",
        "rule": "the least mean KL divergence within the budget",
    }
