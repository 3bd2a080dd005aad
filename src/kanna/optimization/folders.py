"""Optimizations whose artefact is a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kanna import report
from kanna._util.progress import Progress
from kanna.calibration import calibrate, self_generated
from kanna.comparison import CompareResult, steps
from kanna.errors import UsageError
from kanna.model import Model
from kanna.optimization import budget as budgets
from kanna.optimization.budget import Budget
from kanna.optimization.kl_scorer import spare
from kanna.optimization.local_search import able
from kanna.optimization.result import Made, OptimizeResult, count
from kanna.optimization.rows import left_over
from kanna.optimization.search import NAME
from kanna.optimization.stages import Clock, sensitivity
from kanna.optimization.tuning import distill
from kanna.optimization.tuning.distill import Distilled
from kanna.optimization.tuning.distill_folder import Folder
from kanna.sources import Source


def optimize_folder(
    format: str,
    opened: Source,
    model: Model,
    folder: Path,
    *,
    size: int | None,
    bpw: float | None,
    like: str | None,
    memory: int | None,
    calibration: Sequence[str | Path] | None,
    tokens: int,
    keep: Sequence[str],
    exclude: Sequence[str],
    rules: Mapping[str, str] | None,
    text: str | Path | None,
    windows: int | None,
    device: str | None,
    threads: int | None,
    bar: Progress,
    say: Callable[[str], None],
    probing: bool,
    tuning: bool,
    command: str,
) -> OptimizeResult:
    """As `optimize`, for a format whose artefacts are folders.

    The module of its name here searches and proves.

    Args:
        command: The command line that does the same, for the report.
    """
    search: Any = import_module(f"kanna.optimization.{format}")
    presets_: Any = import_module(f"kanna.plan.{format}")
    notes, clock = list(model.notes), Clock()

    def allowed(bench: Any) -> Budget:
        if like is None or memory is not None:
            if memory is not None:
                raise UsageError(
                    f"--memory has no use for {format}", expected="one of --size, --bpw and --like"
                )
            return budgets.budget(opened, model, size=size, bpw=bpw, like=None)
        name = like.removeprefix(f"{format}:")
        if size is not None or bpw is not None or name not in presets_.PRESETS:
            raise UsageError(
                f"--like {like}", expected="alone, one of " + ", ".join(presets_.PRESETS)
            )
        return Budget(
            nbytes=bench.size(preset=name) if bench else 0, said=f"the size of {format}:{name}"
        )

    def calibrated() -> Path:
        stats = folder / "statistics"
        read = self_generated.resolve(
            calibration, opened, model, tokens=tokens, device=device, progress=bar
        ).paths
        found = calibrate(
            opened, stats, calibration=read, tokens=tokens, device=device, progress=bar
        )
        clock.stage("calibrate")
        say(
            f"calibrated on {found.tokens:,} tokens"
            + (", kept from before" if found.reused else "")
        )
        sensitivity(model, stats, read, tokens, device, bar, notes)
        clock.stage("gradients")
        return stats

    def tune(subject: Folder, plan: Path) -> Distilled | None:
        read = self_generated.resolve(
            calibration, opened, model, tokens=tokens, device=device, progress=bar
        ).paths
        left = spare(model, read, tokens)
        if not able(left, notes):
            return None
        return distill.tune(
            subject, model, plan, read, tokens, left, device=device, progress=bar, notes=notes
        )

    made: Made = search.optimize(
        opened,
        model,
        folder,
        budget=allowed,
        calibrated=calibrated,
        text=text,
        windows=windows,
        threads=threads,
        bar=bar,
        say=say,
        notes=notes,
        stage=clock.stage,
        probing=probing,
        tune=tune if tuning else None,
        wishes=search.wishes(model, keep=keep, exclude=exclude, rules=dict(rules or {})),
    )
    notes += [note for note in made.notes if note not in notes]
    best, rival = made.best, made.rival
    if best.name != NAME:
        closer = "the tuned plan" if best.name == distill.NAME else best.name
        notes.append(f"{closer} came out closer than the searched plan, and is the artefact to use")
    left = left_over(folder, [Path(row.path or "") for row in made.rows], f"*-{format}", notes)
    name = f"report-{format}"
    told = CompareResult(
        name=model.name,
        source=steps.describe(opened, model),
        rows=made.rows,
        recommended=made.recommended,
        evaluation=made.evaluation,
        environment=steps.environment(threads, (format,)),
        command=command,
        notes=notes,
        report=str(folder / f"{name}.html"),
        optimize=made.story,
    )
    report.write(told.to_dict(), folder, name)
    bar.finish()
    clock.stage("report")
    return OptimizeResult(
        artefact=best.path or "",
        file_bytes=best.file_bytes or 0,
        budget=made.budget.nbytes,
        said=made.budget.said,
        bits_per_weight=8 * (best.file_bytes or 0) / model.num_parameters,
        encodings=count(best.tensors),
        predicted=made.predicted,
        kl_mean=best.kl_mean,
        top1=best.top1,
        rival=rival.name if rival else None,
        rival_kl=rival.kl_mean if rival else None,
        gate=best.gate,
        report=told.report,
        plan=str(made.plan),
        statistics=str(made.statistics),
        left=left,
        tuning=made.tuning,
        seconds=clock.seconds,
        notes=notes,
    )
