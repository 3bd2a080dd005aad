"""The report of an optimization: what is written, and what the result says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna import report as pages
from kanna.calibration import statistics
from kanna.calibration.expert_coverage import coverage
from kanna.comparison import CompareResult
from kanna.comparison.description import describe_source, environment
from kanna.comparison.rows import Row
from kanna.optimization import fine_tune_table, guard_spending, report_data
from kanna.optimization.accuracy_levels import AccuracyResult
from kanna.optimization.adapters.base import Adapter
from kanna.optimization.correction.correction import CorrectionResult
from kanna.optimization.job import Allocation, CalibratedSource, Job, Proof, Written
from kanna.optimization.measure import Measured
from kanna.optimization.search import NAME
from kanna.optimization.times import times
from kanna.optimization.tuning import distillation
from kanna.optimization.tuning.distillation import TuningResult
from kanna.plan import load


def by_kind_of_text(job: Job, calibration: CalibratedSource, proved: Proof) -> dict[str, Any]:
    """Divergence of every artefact by kind of text; {} where the format has no scorer."""
    adapter = calibration.adapter
    if not (adapter.supports_local_search and proved.evaluation):
        return {}
    cache = job.adapter.comparison_context().cache
    return report_data.domains(proved.rows, adapter, calibration.held_out, cache)


def curve(adapter: Adapter, allocation: Allocation, written: Written) -> dict[str, Any]:
    """Predicted divergence by size, of plans and of the plain presets."""
    return report_data.curve(
        allocation.choices,
        allocation.unconstrained,
        allocation.planned.fixed,
        {adapter.label(preset): offer for preset, offer in written.offers.items()},
    )


def swaps(
    allocation: Allocation, proved: Proof, by_kind: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the local search came to; None where there was none.

    Args:
        allocation: The plan.
        proved: The rows, of which the first is of that plan.
        by_kind: Divergence by kind of text.
    """
    if allocation.local_search is None:
        return None
    # Of a file that was corrected too, the divergence says nothing about swaps alone.
    alone = by_kind if load(allocation.plan).tuning is None else {}
    return report_data.swap_summary(allocation.local_search, proved.rows[0].name, alone)


def calibrated(calibration: CalibratedSource, costs: Measured) -> dict[str, Any]:
    """Where the source was calibrated, what its experts saw, and what was measured of it."""
    stats = statistics.read(calibration.statistics)
    return {
        "device": stats.computed_on,
        "coverage": [asdict(layer) for layer in coverage(stats.sites)],
        "measured": costs.key,
    }


def outcome(
    job: Job, calibration: CalibratedSource, allocation: Allocation, proved: Proof
) -> dict[str, Any]:
    """Plans of the files, swaps that were tried, times, and what guards and fine-tunes came to."""
    trials = allocation.local_search
    return {
        "pictures": report_data.pictures(proved.rows, calibration.adapter.names),
        "swaps": [dict(trial) for trial in trials.state.tries] if trials else [],
        "times": times(job.forecast, job.context.clock),
        "guard": proved.guard,
        "fine_tune": fine_tune_table.table(job, calibration, allocation, proved),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinements:
    """What was tried on the written artefact; None where it was not."""

    levels: AccuracyResult | None
    corrected: CorrectionResult | None
    tuned: TuningResult | None

    def section(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "accuracy": _data(self.levels),
            "corrected": _data(self.corrected),
            "tuned": _data(self.tuned),
        }

    def outcome(self) -> dict[str, Any]:
        """As fields of the result."""
        return {
            "accuracy": _data(self.levels),
            "correction": _data(self.corrected),
            "tuning": _data(self.tuned),
        }


def _data(result: AccuracyResult | CorrectionResult | TuningResult | None) -> dict[str, Any] | None:
    return result.to_dict() if result else None


def judged(adapter: Adapter, proved: Proof, baseline: str | None) -> dict[str, Any]:
    """What gate and evaluation say of the artefact to use, and of the preset beside it.

    Args:
        adapter: The format, which knows what an execution provider takes.
        proved: All that was found.
        baseline: Name of the preset.
    """
    best, rival = proved.best, proved.row(baseline)
    return {
        "kl_mean": best.kl_mean,
        "top1": best.top1,
        "grade": best.grade,
        "advice": None if proved.recommended["name"] == best.name else proved.recommended["why"],
        "rival": rival.name if rival else None,
        "rival_kl": rival.kl_mean if rival else None,
        "gate": best.gate,
        "retention": best.retention,
        "beside": best.beside,
        "provider": adapter.placed(Path(best.path or "")),
        "tasks": best.tasks,
        "guard": proved.guard,
        "reference_check": proved.evaluation.get("reference_check"),
    }


def note_outcome(job: Job, best: Row) -> None:
    """Note when the artefact to use is not the one that the search planned."""
    tuned = best.name == distillation.NAME
    if tuned and job.request.recover:
        job.context.note(
            "the tuned plan lost less on held-out text of the domain, and is the file to use"
        )
    elif best.name == guard_spending.NAME:
        pass  # the guard said so
    elif best.name != NAME:
        closer = "the tuned plan" if tuned else best.name
        job.context.note(f"{closer} came out closer than the searched plan, and is the file to use")


def earlier_artefacts(job: Job, rows: Sequence[Row]) -> list[str]:
    """Names of artefacts in the folder that this run did not make; a note names them."""
    names = {Path(row.path or "").name for row in rows}
    earlier = sorted(
        p.name
        for p in job.workspace.folder.glob(job.adapter.pattern)
        if p.name not in names and not p.name.startswith(".")
    )
    if earlier:
        job.context.note(f"of earlier runs, {', '.join(earlier)} are in the folder still")
    return earlier


def plan_to_use(adapter: Adapter, allocation: Allocation, written: Written, best: Row) -> Path:
    """The plan file to convert with again.

    Where a comparison is written, each artefact has its own command there, and this is the searched
    plan; elsewhere it is that of the artefact to use.
    """
    if best.name == guard_spending.NAME:
        return adapter.file(guard_spending.PLAN)
    if best.name == distillation.NAME and not adapter.compares:
        return adapter.file(distillation.PLAN)
    own = (spec.plan for spec in written.specs if spec.name == best.name and not adapter.compares)
    return next(own, None) or allocation.plan


def write_page(job: Job, proved: Proof, section: dict[str, Any]) -> Path:
    """Write the page and its data; returns the page."""
    note_outcome(job, proved.best)
    adapter, context = job.adapter, job.context
    page = adapter.file("report.html")
    result = CompareResult(
        name=job.workspace.model.name,
        source=describe_source(job.workspace.source, job.workspace.model),
        rows=list(proved.rows),
        recommended=proved.recommended,
        evaluation=proved.evaluation,
        environment=environment(context.threads, (adapter.format,)),
        command=job.request.command(),
        notes=context.notes,
        report=str(page),
        optimize=section,
    )
    pages.write(result.to_dict(), job.workspace.folder, page.stem)
    context.progress.finish()
    return page
