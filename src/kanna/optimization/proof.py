"""The artefacts within the budget: gated, evaluated, and one of them chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kanna.closeness import grade_name
from kanna.comparison.context import ComparisonContext
from kanna.comparison.gate import gate
from kanna.comparison.quality import measure_quality, setting, take_quality
from kanna.comparison.rows import Row, as_json, candidate
from kanna.comparison.speed import measure_speed
from kanna.evaluation import EvaluateResult, Extent, evaluate_many
from kanna.evaluation.windows import text_for
from kanna.optimization.adapters.base import Adapter, ArtefactSpec
from kanna.optimization.job import Allocation, Job, Proof, Written
from kanna.optimization.tuning import distillation
from kanna.optimization.tuning.distillation import TuningResult
from kanna.recommendation import Candidate, closest, source_facts
from kanna.recommendation import recommend as pick_by
from kanna.tasks.pairing import TaskScore
from kanna.verification import verify


def final_rows(
    adapter: Adapter, allocation: Allocation, written: Written, tuned: TuningResult | None
) -> list[Row]:
    """The rows of the report: the optimized artefact, the tuned one if it is closer, the preset."""
    optimized, *baselines = written.rows
    # What goes on from the plan, such as local search, may have replaced the artefact.
    if allocation.local_search is not None:
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


def prove(job: Job, rows: Sequence[Row], budget: int) -> Proof:
    """Check and evaluate; of those that did not fail, that of least KL divergence is picked.

    Args:
        job: The optimization.
        rows: The files within the budget.
        budget: Bytes that a file may take.
    """
    if job.adapter.compares:
        return _prove_all(job, rows, budget)
    return _prove_closest(job, rows, budget)


def prove_also(
    job: Job, proved: Proof, row: Row, scores: Sequence[TaskScore], budget: int
) -> Proof:
    """Check and evaluate one file more, and choose again.

    Args:
        job: The optimization.
        proved: What was found of the others.
        row: The file.
        scores: How it did on the tasks that guard it.
        budget: Bytes that a file may take now.
    """
    assert job.guard is not None, "no tasks guard it"
    if job.adapter.compares:
        context = _comparison(job)
        gate(row, context)
        _judge_gains(job, [row])
        job.guard.mark(row, scores)
        _, notes = measure_quality([row], context)
        job.context.note(*notes, *measure_speed([row], context, repeat=1))
    else:
        _score(job, [row])
        _verify(job, row)
        _judge_gains(job, [row])
        job.guard.mark(row, scores)
    _grade(row)
    rows = [*proved.rows, row]
    return replace(
        proved,
        rows=rows,
        pick=_picked(job, rows).name,
        recommended=_recommended(job, rows, budget),
    )


def _comparison(job: Job) -> ComparisonContext:
    return replace(
        job.adapter.comparison_context(),
        text=text_for(job.workspace.source, job.request.text),
        extent=Extent(windows=job.request.windows, context=job.adapter.window),
    )


def _score(job: Job, rows: Sequence[Row]) -> list[EvaluateResult]:
    """Give rows their quality, in the runtime of their format."""
    context = job.context
    scores = evaluate_many(
        [row.path or "" for row in rows],
        reference=job.workspace.source,
        text=job.request.text,
        extent=Extent(windows=job.request.windows, context=job.adapter.window),
        threads=context.threads,
        progress=context.progress,
    )
    for row, score in zip(rows, scores, strict=True):
        take_quality(row, score.to_dict())
    return scores


def _verify(job: Job, row: Row) -> None:
    context = job.context
    checked = verify(
        job.workspace.source, row.path or "", threads=context.threads, progress=context.progress
    ).to_dict()
    row.gate, row.checks = checked["status"], checked["checks"]


def _prove_all(job: Job, rows: Sequence[Row], budget: int) -> Proof:
    """Gate, quality and speed of every row, as in a comparison."""
    context = _comparison(job)
    for row in rows:
        gate(row, context)
    judge(job, rows)
    evaluation, notes = measure_quality(rows, context)
    job.context.note(*notes, *measure_speed(rows, context, repeat=1))
    recommended = _recommended(job, rows, budget)
    pick = _picked(job, rows).name
    return Proof(rows=rows, pick=pick, recommended=recommended, evaluation=evaluation)


def _prove_closest(job: Job, rows: Sequence[Row], budget: int) -> Proof:
    """Quality of every row, and the gate of the closest one that it does not refuse."""
    context, scores = job.context, _score(job, rows)
    for row in sorted(rows, key=lambda row: (not _recovered(job, row), row.kl_mean or 0.0)):
        _verify(job, row)
        judge(job, [row])
        if row.gate != "failed":
            break
    context.note(*(note for score in scores for note in score.notes))
    if job.workspace.speed is not None:
        comparison = job.adapter.comparison_context()
        context.note(*measure_speed(rows, comparison, repeat=1))
    pick, recommended = _picked(job, rows).name, _recommended(job, rows, budget)
    tuned = next((row for row in rows if row.name == distillation.NAME), None)
    if tuned is not None and pick != tuned.name:
        refused = tuned.gate == "failed"
        why = "its checks failed" if refused else "its runtime found another closer"
        context.note(
            f"tuning brought the values closer, but {why}: the tuned folder is not the one to use"
        )
    evaluation = setting(scores[0].to_dict())
    return Proof(rows=rows, pick=pick, recommended=recommended, evaluation=evaluation)


def judge(job: Job, rows: Sequence[Row]) -> None:
    """Check what files keep of an adapter's gain, and of the tasks that guard them."""
    _judge_gains(job, rows)
    if job.guard is not None:
        context, source = job.context, job.workspace.source
        context.note(*job.guard.judge(rows, source, context.threads, context.progress))
        for row in rows:
            _grade(row)


def _judge_gains(job: Job, rows: Sequence[Row]) -> None:
    for tune in job.fine_tunes:
        tune.judge(rows, job.context.threads, job.context.progress)


def _grade(row: Row) -> None:
    measured = {"kl_mean": row.kl_mean, "top1": row.top1, "task_loss": row.task_loss}
    row.grade = grade_name(measured)


def _recovered(job: Job, row: Row) -> bool:
    """Whether a row was tuned on text of the domain, and kept since its loss fell there."""
    return job.request.recover and row.name == distillation.NAME


def _picked(job: Job, rows: Sequence[Row]) -> Row:
    """The recovered row, or that of least KL divergence; of those that did not fail, if any."""
    able = [r for r in rows if r.gate != "failed"] or rows
    return min(able, key=lambda r: (not _recovered(job, r), r.kl_mean is None, r.kl_mean or 0.0))


def _recommended(job: Job, rows: Sequence[Row], budget: int) -> dict[str, Any]:
    """What the report says: the closest file, or the source where that is within the budget too."""
    source = job.workspace.source
    facts = source_facts(source, [job.request.format])
    facts = replace(facts, fits=facts.file_bytes <= budget)
    # Within a budget, 16 bits are as welcome as 4.
    candidates = [replace(candidate(row), bits_per_weight=None) for row in rows if row.file_bytes]
    return as_json(pick_by(candidates, facts, _domain_first if job.request.recover else closest))


def _domain_first(able: Sequence[Candidate]) -> tuple[Candidate, str, str]:
    """What was tuned on text of the domain, else the closest."""
    tuned = [c for c in able if c.name == distillation.NAME]
    pick, why, rule = closest(tuned or able)
    if not tuned:
        return pick, why, rule
    why += " Its loss on held-out text of the domain is lower than before it was tuned there."
    return pick, why, f"a file whose loss on text of the domain fell, or else {rule}"
