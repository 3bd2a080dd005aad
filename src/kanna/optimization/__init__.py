"""Optimize: the artefact closest to the source among all that a stock llama.cpp loads within a budget."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kanna import families, report
from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.calibration import HELD_TEXT, IMATRIX, TOKENS, calibrate, self_generated, statistics
from kanna.comparison import steps
from kanna.comparison.result_cache import Kept
from kanna.encodings import grid_detection
from kanna.errors import UsageError
from kanna.evaluation.windows import read_text
from kanna.hardware.cpu import default_threads
from kanna.optimization import budget as budgets
from kanna.optimization.folders import optimize_folder
from kanna.optimization.kl_scorer import spare
from kanna.optimization.local_search import Swaps, able
from kanna.optimization.measure import measure, unmeasured
from kanna.optimization.memory_budget import Footprint
from kanna.optimization.probe import probe
from kanna.optimization.report_data import curve, domains, swapped, tell
from kanna.optimization.result import OptimizeResult, command, count
from kanna.optimization.rows import beside, left_over, offers, prove
from kanna.optimization.search import NAME, Wishes, fill, limits, plan_of
from kanna.optimization.stages import Clock, sensitivity
from kanna.optimization.tuning import distill as tuning
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import open_source

__all__ = ["OptimizeResult", "optimize"]

EXTRA = "torch"
FORMATS = ("gguf", "onnx", "mlx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How far a search goes.

    Attributes:
        probing: Whether predictions are held against the runtime.
        swaps: Tried at most, of GGUF alone.
        tuning: Whether scales and norms learn from the original.
    """

    summary: str
    probing: bool = True
    swaps: int = 0
    tuning: bool = False


EFFORTS = {
    "fast": Effort(summary="Trust predictions", probing=False),
    "balanced": Effort(
        summary="Correct predictions by measuring every kind of matrix in the runtime"
    ),
    "max": Effort(
        summary="Then try swaps of encodings there until none gains (GGUF alone), and tune scales and norms",
        swaps=64,
        tuning=True,
    ),
}
_SCRATCH = (".judge-*", ".memory-*", ".probe-*", ".swaps-*")


def optimize(
    source: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    bpw: float | None = None,
    like: str | None = None,
    memory: int | None = None,
    context: int = 4096,
    calibration: Sequence[str | Path] | None = None,
    tokens: int = TOKENS,
    effort: str = "balanced",
    keep: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rules: Mapping[str, str] | None = None,
    text: str | Path | None = None,
    windows: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> OptimizeResult:
    """Search the best plan within a budget, write it, prove it and report it in the folder `out`.

    One of size (bytes of the file), bpw (bits per weight of the file), like (the size of a preset)
    and memory (bytes that weights, cache and buffers may take in llama.cpp at `context` tokens, the
    encoding of the cache chosen too).

    Raises UsageError, PlanError (with the feasible range), MissingError without torch or llama.cpp.
    Every stage is kept: an interrupted run goes on, and another budget for the same source needs no
    calibration.

    Args:
        source: What is converted.
        out: The folder for the artefact, its statistics and the report.
        size: Bytes of the file.
        bpw: Bits per weight of the whole file.
        like: A preset, whose size is the budget.
        memory: Bytes of llama.cpp with its cache full.
        context: Tokens of that cache.
        windows: Of 512 tokens to evaluate; None: as `evaluate` does.
        threads: None: one per physical core.
        calibration, tokens, device: As for `calibrate`, whose statistics are kept in `out` and used
            again.
        effort: `fast` trusts predictions; `balanced` corrects them by measuring every kind of
            tensor in the runtime; `max` then tries swaps of encodings there until none gains (GGUF
            alone), and tunes scales and norms.
        keep: Patterns of tensors that stay at 16 bits.
        exclude: Encodings not to be used.
        rules: Pattern → encoding.
        text: What the result is evaluated on; None: the WikiText-2 test set.
        format: `gguf` (the default), `onnx`, whose budget counts every file of the folder, or
            `mlx`, whose budget counts the weight files.
    """
    say, bar = remark or _nothing, progress or Silent()
    if effort not in EFFORTS:
        raise UsageError(f"no effort {effort!r}", expected=" or ".join(EFFORTS))
    if format not in (None, *FORMATS):
        raise UsageError(f"--format {format} is not searched", expected=" or ".join(FORMATS))
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder} is a file", expected="a folder, which is made when it is absent"
        )
    opened = open_source(
        source, revision=revision, offline=offline, preflight=families.load_model, progress=progress
    )
    model = families.load_model(opened)
    budgets.check(size=size, bpw=bpw, like=like, memory=memory)
    asked = EFFORTS[effort]
    options = {
        "format": format,
        "size": size,
        "bpw": bpw,
        "like": like,
        "memory": memory,
        "context": context if memory else None,
        "effort": effort,
        "calibration": tuple(calibration or ()),
        "tokens": tokens,
        "keep": tuple(keep),
        "exclude": ",".join(exclude) or None,
        "rule": tuple(f"{p}={e}" for p, e in (rules or {}).items()),
        "text": text,
        "windows": windows,
        "revision": revision,
    }
    said = command(source, folder, options)
    if format in ("onnx", "mlx"):
        return optimize_folder(
            format,
            opened,
            model,
            folder,
            size=size,
            bpw=bpw,
            like=like,
            memory=memory,
            calibration=calibration,
            tokens=tokens,
            keep=keep,
            exclude=exclude,
            rules=rules,
            text=text,
            windows=windows,
            device=device,
            threads=threads,
            bar=bar,
            say=say,
            probing=asked.probing,
            tuning=asked.tuning,
            command=said,
        )
    wishes = Wishes(keep=keep, exclude=exclude, rules=dict(rules or {}))
    wishes.check(model)
    # What is impossible is said before anything slow is done about it.
    feasible = limits(opened, unmeasured(model).choices(model, wishes.allow(model)))
    footprint = (
        Footprint(opened, memory, context, feasible, threads, bar) if memory is not None else None
    )
    allow = partial(budgets.budget, opened, model, size=size, bpw=bpw, like=like)
    allowed = footprint.budget if footprint else allow()
    feasible.check(allowed.nbytes)
    notes = [*model.notes, *grid_detection.told(grid_detection.recognised(model.tensors))]
    if allowed.nbytes > feasible.most:
        notes.append(
            f"the budget is more than can be used: {feasible.least:,} bytes are the smallest file, {feasible.most:,} "
            "the largest"
        )
    if text is not None:
        read_text(text)
    clock = Clock()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (
        p for pattern in _SCRATCH for p in folder.glob(pattern)
    ):  # of a run that was killed
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    stats = folder / "statistics"
    named = calibration  # text sampled from the model becomes files
    calibration = self_generated.resolve(
        named, opened, model, tokens=tokens, device=device, progress=bar
    ).paths
    calibrated = calibrate(
        opened, stats, calibration=calibration, tokens=tokens, device=device, progress=progress
    )
    if footprint is None:
        allowed = allow(imatrix=stats / IMATRIX)
    clock.stage("calibrate")
    say(
        f"calibrated on {calibrated.tokens:,} tokens"
        + (", kept from before" if calibrated.reused else "")
    )
    sensitivity(model, stats, calibration, tokens, device, bar, notes)
    clock.stage("gradients")
    workers = threads or default_threads()
    costs = measure(
        model, statistics.read(stats), folder / "measure.json", threads=workers, progress=bar
    )
    clock.stage("measure")
    scale: dict[str, float] = {}
    held = stats / HELD_TEXT
    if asked.probing and not held.read_text(encoding="utf-8").strip():
        notes.append(
            "the calibration text is too short to hold some of it out: predictions were not measured"
        )
    elif asked.probing:
        scale = probe(
            opened, costs, stats, held, folder / "probe.json", threads=threads, progress=bar
        )
        clock.stage("probe")
    plan = folder / "plan.json"
    choices = costs.choices(model, wishes.allow(model), scale)
    text_left = spare(model, calibration, tokens)
    decides = asked.swaps > 0 and able(text_left, notes)
    if footprint:
        reserve = tuning.RESERVE if decides else 0
        footprint.settle(choices, stats, plan, text_left, costs.key, reserve, bar, notes)
        allowed = footprint.budget
        clock.stage("memory")
    tunes = decides and asked.tuning and allowed.nbytes - tuning.RESERVE >= feasible.least
    room = allowed.nbytes - tunes * tuning.RESERVE
    found = fill(opened, choices, stats, room, plan)
    swaps: Swaps | None = None
    if decides:
        swaps = Swaps(opened, model, choices, found, stats, room, folder, text_left, threads)
        plan_of(choices, swaps.encodings).save(plan)  # of an earlier run, it may be ahead already
    clock.stage("search")
    say(f"planned {format_size(found.file_bytes)} of {format_size(allowed.nbytes)}")
    offered = offers(opened, stats)
    sizes = {name: size for name, (size, _) in offered.items()}
    rows = beside(opened, folder, plan, stats, allowed, sizes)
    hashes = opened.hashes(bar)
    for row, how in rows:
        steps.make(row, opened, model, hashes, how, threads, False, bar)
    clock.stage("write")
    if swaps is not None:
        swaps.run(Path(rows[0][0].path or ""), plan, asked.swaps, bar)
        kept = sum(one["kept"] for one in swaps.state.tries)
        say(f"tried {len(swaps.state.tries)} swaps of encodings, kept {kept}")
        clock.stage("swaps")
    tuned: tuning.Distilled | None = None
    if tunes:
        ours = Path(rows[0][0].path or "")
        subject = tuning.Gguf(
            source=opened,
            model=model,
            artefact=ours,
            stats=stats,
            trial=text_left.trial,
            threads=threads,
            out=ours.with_name(f"{steps.base_name(opened)}-{tuning.NAME}.gguf"),
        )
        tuned = tuning.tune(
            subject,
            model,
            plan,
            calibration,
            tokens,
            text_left,
            device=device,
            progress=bar,
            notes=notes,
        )
        clock.stage("distill")
    if swaps is not None:
        rows = beside(opened, folder, plan, stats, allowed, sizes, tuned is not None and tuned.kept)
        for row, how in rows:
            steps.make(row, opened, model, hashes, how, threads, False, bar)
    if footprint:
        rows = footprint.within(rows)
        clock.stage("memory")
    listed = [row for row, _ in rows]
    result = prove(opened, model, listed, folder, hashes, text, windows, threads, bar, notes)
    clock.stage("prove")
    by_kind = (
        domains(
            listed,
            opened,
            text_left,
            folder,
            Kept(folder, hashes, RUNTIME.available().version),
            threads,
            bar,
        )
        if result.evaluation
        else {}
    )
    drawn = curve(choices, costs.choices(model, None, scale), feasible.fixed, offered)
    best = next(r for r in listed if r.name == result.recommended["name"])
    remembered = footprint.tell(best, text_left, folder, bar) if footprint else None
    result.optimize = tell(
        listed,
        costs,
        drawn,
        by_kind,
        swaps.state.tries if swaps else [],
        tuned.to_dict() if tuned else None,
    )
    result.optimize["memory"] = remembered
    clock.stage("report")
    rival = next((row for row in listed if row.name not in (NAME, tuning.NAME)), None)
    if rival is not None and best is rival:
        notes.append(
            f"{rival.name} came out closer than the searched plan, and is the artefact to use"
        )
    left = left_over(folder, [Path(r.path or "") for r in listed], "*.gguf", notes)
    result.command = said
    result.report = str(folder / "report.html")
    report.write(result.to_dict(), folder)
    bar.finish()
    return OptimizeResult(
        artefact=best.path or "",
        file_bytes=best.file_bytes or 0,
        budget=allowed.nbytes,
        said=allowed.said,
        bits_per_weight=best.bits_per_weight or 0.0,
        encodings=count(best.tensors),
        predicted=swaps.predicted() if swaps else found.predicted,
        kl_mean=best.kl_mean,
        top1=best.top1,
        rival=rival.name if rival else None,
        rival_kl=rival.kl_mean if rival else None,
        gate=best.gate,
        report=result.report,
        plan=str(plan),
        statistics=str(stats),
        swaps=swapped(swaps.state, listed[0].name, by_kind) if swaps else None,
        tuning=tuned.to_dict() if tuned else None,
        memory=remembered,
        left=left,
        seconds=clock.seconds,
        notes=notes,
    )


def _nothing(_: str) -> None:
    pass
