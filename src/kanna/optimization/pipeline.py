"""The stages of an optimization and their order; what differs between formats is in the adapters.

Every stage takes the job and typed results of earlier stages, saves its own result in the output
folder under a key of what it depends on, and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kanna._util.units import format_size
from kanna.calibration import statistics
from kanna.optimization import earlier as earlier_files
from kanna.optimization import guard_spending, input_statistics, proof, reporting, speed_outcome
from kanna.optimization.accuracy_levels import AccuracyResult
from kanna.optimization.adapters.base import ArtefactSpec
from kanna.optimization.context import Context
from kanna.optimization.correction.correction import CorrectionResult, correct, take_up
from kanna.optimization.correction.deciding_text import deciding_windows
from kanna.optimization.deadline import Deadline, tell_forecast
from kanna.optimization.job import (
    Allocation,
    CalibratedSource,
    Job,
    Proof,
    Written,
    budget_of,
    open_job,
)
from kanna.optimization.kl_scorer import Window, can_decide
from kanna.optimization.local_search import LocalSearch, remove_kept
from kanna.optimization.measure import Measured
from kanna.optimization.measure import measure as measure_costs
from kanna.optimization.probe import probe as probe_kinds
from kanna.optimization.request import OptimizeRequest
from kanna.optimization.result import OptimizeResult, count_encodings
from kanna.optimization.search import NAME, search, size_range
from kanna.optimization.spread.measuring import measure_layers
from kanna.optimization.stages import stage
from kanna.optimization.target_check import for_target
from kanna.optimization.time_budget import chosen
from kanna.optimization.times import times
from kanna.optimization.tuning import distillation
from kanna.optimization.tuning.distillation import TuningResult
from kanna.optimization.tuning.recovery import Recovery


def run(request: OptimizeRequest, context: Context) -> OptimizeResult:
    """Go through every stage; see docs/optimize.md."""
    job = open_job(request, context)
    tell_forecast(job)
    deadline = Deadline(job)
    context.clock.restart()
    calibration = calibrate(job)
    gradients(job, calibration)
    costs = measure(job, calibration)
    scale = probe(job, calibration, costs) if job.probes and deadline.allows("probe") else {}
    allocation = allocate(job, calibration, costs, scale)
    deciding = _deciding(job, calibration, allocation)
    searched = allocation.local_search
    if deciding and (searched is None or searched.finished(job.effort.swaps)):
        take_up(calibration.adapter, allocation.plan, calibration.windows, deciding)
    with earlier_files.kept(calibration.adapter.artefact(NAME), context.note):
        written = write(job, calibration, allocation)
        levelled = job.forecast.extent.levels and deadline.allows("accuracy")
        levels = accuracy(job, calibration, allocation, written) if levelled else None
    if allocation.local_search is not None and deadline.allows("local-search"):
        local_search(job, allocation.local_search, allocation, written)
    corrected = None
    if deciding and deadline.allows("correction"):
        corrected = correction(job, calibration, allocation, written, deciding)
    tunes = allocation.tuned and deadline.allows("tuning")
    tuned = tuning(job, calibration, allocation, written) if tunes else None
    proved = prove(job, calibration, allocation, written, tuned)
    if deadline.allows("guard"):
        proved = guard(job, calibration, allocation, written, proved)
    made = report(
        job,
        calibration,
        allocation,
        written,
        costs=costs,
        refined=reporting.Refinements(levels=levels, corrected=corrected, tuned=tuned),
        proved=proved,
    )
    return replace(made, times=times(job.forecast, context.clock))  # the report's own, too


@stage("calibrate", "Text → second moments of every matrix's inputs, held-out samples of them")
def calibrate(job: Job) -> CalibratedSource:
    """Run text through the source, and keep the statistics of its inputs."""
    return input_statistics.calibrated(job)


@stage("gradients", "A backward pass, layer by layer → how the loss feels an error in each row")
def gradients(job: Job, calibration: CalibratedSource) -> None:
    """Write the gradients beside the statistics, where there is memory for a backward pass."""
    input_statistics.with_gradients(job, calibration)


@stage("measure", "Every encoding × every matrix → predicted nats")
def measure(job: Job, calibration: CalibratedSource) -> Measured:
    """Predict what every encoding would cost every matrix."""
    adapter, names = calibration.adapter, job.candidates(calibration.adapter)
    measure_layers(adapter, names)
    measured = measure_costs(
        job.workspace.model,
        statistics.read(calibration.statistics),
        adapter.file("measure.json"),
        threads=job.context.workers,
        progress=job.context.progress,
        names=names,
        rounding=adapter.rounding,
        device=job.context.device,
    )
    job.context.note(*measured.remarks)
    return measured


@stage("probe", "Every kind of tensor alone, in the runtime → predicted nats, corrected")
def probe(job: Job, calibration: CalibratedSource, costs: Measured) -> dict[str, float]:
    """Factors on the costs of each tensor; {} where there is no text to measure on."""
    adapter = calibration.adapter
    if not (calibration.statistics / statistics.HELD_TEXT).read_text(encoding="utf-8").strip():
        job.context.note(
            "the calibration text is too short to hold some of it out: predictions were not "
            "measured"
        )
        return {}
    return probe_kinds(
        adapter.prober(costs), costs, adapter.file("probe.json"), job.context.progress
    )


@stage("allocate", "Least predicted nats within the bytes → plan.json", seconds="search")
def allocate(
    job: Job, calibration: CalibratedSource, costs: Measured, scale: dict[str, float]
) -> Allocation:
    """Choose an encoding for every matrix, and write the plan."""
    adapter, context, effort = calibration.adapter, job.context, job.effort
    plan = adapter.file("plan.json")
    choices = adapter.choices(costs, job.constraints, scale)
    searches = effort.swaps > 0 and adapter.supports_local_search
    tunes = job.forecast.extent.tunes
    decides = (searches or tunes) and can_decide(calibration.held_out, context)
    if job.memory is not None:
        job.memory.settle(
            adapter,
            choices,
            plan,
            calibration.held_out,
            key=costs.key,
            reserve=adapter.tuning_bytes if decides else 0,
        )
        context.clock.lap("memory")
    budget = budget_of(job, adapter)
    least = size_range(adapter, choices).least
    tunes = tunes and decides and budget.nbytes - adapter.tuning_bytes >= least
    available = budget.nbytes - tunes * adapter.tuning_bytes
    unconstrained = adapter.choices(costs, None, scale)
    speed_outcome.settle(adapter, choices, unconstrained, available)
    planned = search(adapter, choices, available, plan)
    local: LocalSearch | None = None
    if searches and decides:
        local = LocalSearch(adapter, choices, planned, available, calibration.held_out)
        local.take_up(adapter.artefact(NAME))
        # That of an earlier run may be ahead already.
        adapter.plan(choices, local.encodings).save(plan)
    remove_kept(plan.parent)
    context.on_message(f"planned {format_size(planned.file_bytes)} of {format_size(budget.nbytes)}")
    return Allocation(
        plan=plan,
        planned=planned,
        budget=budget,
        choices=choices,
        unconstrained=unconstrained,
        local_search=local,
        tuned=tunes,
    )


@stage("write", "The plan, and the largest plain preset within the budget → files")
def write(job: Job, calibration: CalibratedSource, allocation: Allocation) -> Written:
    """Write the optimized artefact, and the plain preset that it is compared with."""
    adapter = calibration.adapter
    offers = adapter.offers()
    specs = [*adapter.specs(allocation.plan)]
    baseline: str | None = None
    preset = speed_outcome.rival(job, adapter, allocation, offers)
    if preset is not None:
        baseline = adapter.label(preset)
        specs.append(ArtefactSpec(name=baseline, path=adapter.artefact(preset), preset=preset))
    for tune in job.fine_tunes:
        tune.write_alone(job.context.running())
    optimized = adapter.write(specs[0])
    return Written(
        specs=specs,
        rows=[optimized, *(adapter.write(spec) for spec in specs[1:])],
        baseline=baseline,
        offers=offers,
    )


@stage("accuracy", "Inputs rounded or not, by kind of product → the plan's levels")
def accuracy(
    job: Job, calibration: CalibratedSource, allocation: Allocation, written: Written
) -> AccuracyResult | None:
    """Leave inputs in floats where rounding them costs too much; None where it is not measured."""
    result = calibration.adapter.settle_levels(allocation.plan, written.specs[0].path)
    job.context.note(*(result.notes() if result else ()))
    return result


@stage("local-search", "Other plans of that size, in the runtime → the better one", seconds="swaps")
def local_search(job: Job, trials: LocalSearch, allocation: Allocation, written: Written) -> None:
    """Replace the artefact and its plan by better ones of the same size."""
    trials.run(written.specs[0].path, allocation.plan, job.effort.swaps)
    job.context.on_message(
        f"tried {len(trials.state.tries)} swaps of encodings, kept {trials.kept}"
    )


def _deciding(job: Job, calibration: CalibratedSource, allocation: Allocation) -> list[Window]:
    """Text that decides on a correction; [] where there is none to be made."""
    # What names its rows in the file was left room for where `tuned`.
    if not (allocation.tuned and job.forecast.extent.corrects):
        return []
    needed = sum(s.memory for s in job.forecast.stages if s.stage == "correction")
    return deciding_windows(job.workspace, calibration.held_out, job.request.text, needed)


@stage("correction", "Values again, by what quantized layers before them give", seconds="correct")
def correction(
    job: Job,
    calibration: CalibratedSource,
    allocation: Allocation,
    written: Written,
    deciding: Sequence[Window],
) -> CorrectionResult | None:
    """Replace the artefact and its plan by corrected ones where these are closer."""
    artefact, windows = written.specs[0].path, calibration.windows
    result = correct(calibration.adapter, allocation.plan, artefact, windows, deciding)
    if result is not None:
        job.context.note(*result.remarks)
        job.context.on_message(result.sentence())
    return result


@stage("tuning", "Scales and norms learn from the original's logits", seconds="distill")
def tuning(
    job: Job, calibration: CalibratedSource, allocation: Allocation, written: Written
) -> TuningResult | None:
    """Tune the artefact; None where there is nothing to tune, or no memory for it."""
    adapter, held_out_ = calibration.adapter, calibration.held_out
    out = adapter.artefact(distillation.NAME)
    subject = adapter.tuning_subject(allocation.plan, written.specs[0].path, out, held_out_)
    recovery: Recovery | None = None
    if job.request.recover:
        recovery = Recovery(workspace=adapter.workspace, held=held_out_, fine_tune=job.fine_tune)
    return distillation.tune(
        adapter.workspace, subject, allocation.plan, calibration.windows, held_out_, recovery
    )


@stage("prove", "Gate, KL divergence, next to the plain preset of that size")
def prove(
    job: Job,
    calibration: CalibratedSource,
    allocation: Allocation,
    written: Written,
    tuned: TuningResult | None,
) -> Proof:
    """Gate and evaluate the artefacts as they lie on the disk now."""
    rows = proof.final_rows(calibration.adapter, allocation, written, tuned)
    if job.memory is not None:
        rows = job.memory.within(rows)
        job.context.clock.lap("memory")
    return proof.prove(job, rows, allocation.budget.nbytes)


@stage("guard", "Where a task is lost: larger files of that curve, until it holds → guard.json")
def guard(
    job: Job,
    calibration: CalibratedSource,
    allocation: Allocation,
    written: Written,
    proved: Proof,
) -> Proof:
    """Spend bytes where every file within the budget lost a task that guards it."""
    if job.guard is None:
        return proved
    more, spent = guard_spending.settle(job, job.guard, calibration, allocation, written, proved)
    return replace(more, guard=spent.to_dict())


@stage("report", "Figures, curve, plans and kinds of text → report.html")
def report(
    job: Job,
    calibration: CalibratedSource,
    allocation: Allocation,
    written: Written,
    *,
    costs: Measured,
    refined: reporting.Refinements,
    proved: Proof,
) -> OptimizeResult:
    """Write the report, and say what was made."""
    adapter, trials = calibration.adapter, allocation.local_search
    by_kind = reporting.by_kind_of_text(job, calibration, proved)
    limits = speed_outcome.limits(job, calibration, allocation, proved)
    section = {
        **reporting.outcome(job, calibration, allocation, proved),
        "curve": reporting.curve(adapter, allocation, written),
        "domains": by_kind,
        **refined.section(),
        **limits,
        **reporting.calibrated(calibration, costs),
    }
    best = proved.best
    left = reporting.earlier_artefacts(job, proved.rows)
    page = reporting.write_page(job, proved, section)
    return OptimizeResult(
        artefact=best.path or "",
        file_bytes=best.file_bytes or 0,
        budget=allocation.budget.nbytes,
        said=allocation.budget.words,
        bits_per_weight=adapter.bits_per_weight(best),
        encodings=count_encodings(best.tensors),
        predicted=trials.predicted() if trials else allocation.planned.predicted,
        **reporting.judged(adapter, proved, written.baseline),
        report=str(page),
        plan=str(reporting.plan_to_use(adapter, allocation, written, best)),
        statistics=str(calibration.statistics),
        swaps=reporting.swaps(allocation, proved, by_kind),
        **refined.outcome(),
        **limits,
        left=left,
        target=for_target(job, proved.best),
        seconds=job.context.clock.seconds,
        device=statistics.read(calibration.statistics).computed_on,
        time_budget=chosen(job.request, job.forecast),
        notes=job.context.notes,
    )
