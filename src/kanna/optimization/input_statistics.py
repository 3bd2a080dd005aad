"""Statistics of every matrix's inputs, and gradients beside them, for one optimization."""

from __future__ import annotations

from dataclasses import replace

from kanna.calibration import calibrate as calibrate_source
from kanna.calibration import gradients as backward
from kanna.calibration import self_generated, statistics, texts
from kanna.calibration.expert_coverage import few_tokens
from kanna.calibration.windows import cut
from kanna.errors import KannaError
from kanna.evaluation.stats import MIN_WINDOWS
from kanna.optimization.job import CalibratedSource, Job
from kanna.optimization.kl_scorer import held_out
from kanna.optimization.lapped_progress import LappedProgress
from kanna.optimization.tuning.recovery import WINDOWS, learned_tokens


def calibrated(job: Job) -> CalibratedSource:
    """The source with second moments of its inputs, and text that nothing was fitted to."""
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


def with_gradients(job: Job, calibration: CalibratedSource) -> None:
    """Gradients beside the statistics; a note where there is no memory for a backward pass."""
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
