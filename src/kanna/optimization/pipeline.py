"""The stages of an optimization and their order; what differs between formats is in the adapters.

Every stage takes the job and typed results of earlier stages, saves its own result in the output
folder under a key of what it depends on, and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kanna._util.units import format_size
from kanna.calibration import calibrate as calibrate_source
from kanna.calibration import gradients as backward
from kanna.calibration import self_generated, statistics, texts
from kanna.calibration.expert_coverage import few_tokens
from kanna.calibration.windows import cut
from kanna.errors import KannaError
from kanna.evaluation.stats import MIN_WINDOWS
from kanna.optimization import earlier as earlier_files
from kanna.optimization import (
    fine_tune_table,
    guard_spending,
    proof,
    report_data,
    reporting,
    speed_outcome,
)
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
from kanna.optimization.kl_scorer import Window, can_decide, held_out
from kanna.optimization.lapped_progress import LappedProgress
from kanna.optimization.local_search import LocalSearch
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
from kanna.optimization.tuning.recovery import WINDOWS, Recovery, learned_tokens


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
    written = write(job, calibration, allocation)
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
        corrected=corrected,
        tuned=tuned,
        proved=proved,
    )
    return replace(made, times=times(job.forecast, context.clock))  # the report's own, too


@stage("calibrate", "Text → second moments of every matrix's inputs, held-out samples of them")
def calibrate(job: Job) -> CalibratedSource:
    """Run text through the source, and keep the statistics of its inputs."""
    workspace, context, request = job.workspace, job.context, job.request
    paths = self_generated.resolve(
        request.calibration,
        workspace.source,
        workspace.model,
        tokens=request.tokens,
        device=context.device,
        progress=context.progress,
    ).paths
    if job.fine_tunes:
        paths = job.fine_tunes[0].with_domain(paths, request, workspace.folder / "domain")
    tokens, least = request.tokens, MIN_WINDOWS
    if request.recover:
        tokens, least = learned_tokens(workspace.model, paths, tokens), WINDOWS
    folder = workspace.folder / "statistics"
    calibrated = calibrate_source(
        workspace.source,
        folder,
        calibration=paths,
        adapter=dict(request.adapter) if request.apart else None,
        tokens=tokens,
        gradients=request.apart and not backward.lacking(workspace.model, workspace.folder),
        device=context.device,
        progress=LappedProgress(context.progress, context.clock, "calibrate", "gradients"),
    )
    context.on_message(
        f"calibrated on {calibrated.tokens:,} tokens"
        + (", kept from before" if calibrated.reused else "")
    )
    few = few_tokens(calibrated.coverage)
    context.note(*calibrated.notes, *([few] if few else []))
    return CalibratedSource(
        adapter=type(job.adapter)(replace(workspace, statistics=folder)),
        windows=cut(texts.documents(paths, workspace.model)[0], workspace.model, tokens=tokens),
        held_out=held_out(workspace.model, paths, tokens, least),
    )


@stage("gradients", "A backward pass, layer by layer → how the loss feels an error in each row")
def gradients(job: Job, calibration: CalibratedSource) -> None:
    """Write the gradients beside the statistics, where there is memory for a backward pass."""
    model, context = job.workspace.model, job.context
    instead = "tensors were weighed by their relative errors instead of their gradients"
    if lacking := backward.lacking(model, calibration.statistics):
        context.note(f"{lacking}: {instead}")
        return
    try:
        remarks = backward.gradients(
            model,
            calibration.windows,
            calibration.statistics,
            statistics.read(calibration.statistics).sha256,
            device=context.device,
            progress=context.progress,
        )
        context.note(*remarks)
    except KannaError as error:
        context.note(f"{error.found}: {instead}")


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
        # That of an earlier run may be ahead already.
        adapter.plan(choices, local.encodings).save(plan)
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
    specs = [ArtefactSpec(name=NAME, path=adapter.artefact(NAME), plan=allocation.plan)]
    baseline: str | None = None
    preset = speed_outcome.rival(job, adapter, allocation, offers)
    if preset is not None:
        baseline = adapter.label(preset)
        specs.append(ArtefactSpec(name=baseline, path=adapter.artefact(preset), preset=preset))
    for tune in job.fine_tunes:
        tune.write_alone(job.context.running())
    with earlier_files.kept(specs[0].path, job.context.note):
        optimized = adapter.write(specs[0])
    return Written(
        specs=specs,
        rows=[optimized, *(adapter.write(spec) for spec in specs[1:])],
        baseline=baseline,
        offers=offers,
    )


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
    corrected: CorrectionResult | None,
    tuned: TuningResult | None,
    proved: Proof,
) -> OptimizeResult:
    """Write the report, and say what was made."""
    adapter, trials, rows = calibration.adapter, allocation.local_search, proved.rows
    by_kind = reporting.by_kind_of_text(job, calibration, proved)
    limits = speed_outcome.limits(job, calibration, allocation, proved)
    section = {
        "pictures": report_data.pictures(rows, adapter.names),
        "curve": reporting.curve(adapter, allocation, written),
        "domains": by_kind,
        "swaps": [dict(trial) for trial in trials.state.tries] if trials else [],
        **reporting.value_changes(corrected, tuned),
        "times": times(job.forecast, job.context.clock),
        **limits,
        "guard": proved.guard,
        "fine_tune": fine_tune_table.table(job, calibration, allocation, proved),
        **reporting.calibrated(calibration, costs),
    }
    best = proved.best
    left, page = reporting.earlier_artefacts(job, rows), reporting.write_page(job, proved, section)
    return OptimizeResult(
        artefact=best.path or "",
        file_bytes=best.file_bytes or 0,
        budget=allocation.budget.nbytes,
        said=allocation.budget.words,
        bits_per_weight=adapter.bits_per_weight(best),
        encodings=count_encodings(best.tensors),
        predicted=trials.predicted() if trials else allocation.planned.predicted,
        **reporting.judged(proved, written.baseline),
        report=str(page),
        plan=str(reporting.plan_to_use(adapter, allocation, best)),
        statistics=str(calibration.statistics),
        swaps=reporting.swaps(allocation, proved, by_kind),
        correction=corrected.to_dict() if corrected else None,
        tuning=tuned.to_dict() if tuned else None,
        **limits,
        left=left,
        target=for_target(job, proved.best),
        seconds=job.context.clock.seconds,
        device=statistics.read(calibration.statistics).computed_on,
        time_budget=chosen(job.request, job.forecast),
        notes=job.context.notes,
    )
