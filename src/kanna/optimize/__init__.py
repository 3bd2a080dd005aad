"""Optimize: the artefact closest to the source among all that a stock llama.cpp loads within a budget."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kanna import families, lattice, report, statistics
from kanna.calibrate import HELD_TEXT, IMATRIX, TOKENS, calibrate, gradients, sampled, texts
from kanna.calibrate.windows import cut
from kanna.compare import CompareResult, steps
from kanna.compare.kept import Kept
from kanna.compare.rows import Row
from kanna.convert import convert
from kanna.errors import KannaError, UsageError
from kanna.evaluate.windows import read_text
from kanna.hardware.cpu import default_threads
from kanna.hardware.memory import memory as machine
from kanna.model import Model
from kanna.optimize import budget as budgets
from kanna.optimize import distill as tuning
from kanna.optimize.budget import Budget
from kanna.optimize.footprint import Footprint
from kanna.optimize.judge import spare
from kanna.optimize.measure import measure, unmeasured
from kanna.optimize.probe import probe
from kanna.optimize.search import NAME, Wishes, fill, limits, plan_of
from kanna.optimize.story import curve, domains, swapped, tell
from kanna.optimize.swaps import Swaps, able
from kanna.plan import presets
from kanna.progress import Progress, Silent
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source, open_source
from kanna.units import format_size

__all__ = ["OptimizeResult", "optimize"]

EFFORTS = {"fast": 0, "balanced": 0, "max": 64}
"""Swaps that are tried at most."""
_SCRATCH = (".judge-*", ".memory-*", ".probe-*", ".swaps-*")
FORMATS = ("gguf", "onnx", "mlx")
_USUAL = {"effort": "balanced", "tokens": TOKENS}
"""What the command line has when nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeResult:
    """What was made, and the proof.

    artefact:  the file to use; file_bytes ≤ budget
    kl_mean:   in the real runtime, on held-out text; rival and rival_kl: the best plain preset within the budget
    tuning:    what tuning scales and norms came to in the runtime, and what it took; None where it was not tried
    predicted: nats of KL divergence the plan was expected to cost
    swaps:     how many were tried and kept, and the divergence before and after on the text that decided and on text
               that did not; None where none were tried
    memory:    with `memory`: the limit, the encoding of the cache and why, bytes predicted and measured; see
               docs/optimize.md
    left:      artefacts of earlier runs in the same folder
    seconds:   by stage
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
    tuning: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    left: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return asdict(self)


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

    One of size (bytes of the file), bpw (bits per weight of the file), like (the size of a preset) and memory (bytes
    that weights, cache and buffers may take in llama.cpp at `context` tokens, the encoding of the cache chosen too).

    calibration, tokens, device: as for `calibrate`, whose statistics are kept in `out` and used again
    effort:  `fast` trusts predictions; `balanced` corrects them by measuring every kind of tensor in the runtime;
             `max` then tries swaps of encodings there until none gains, and tunes scales and norms
    keep:    patterns of tensors that stay at 16 bits; exclude: encodings not to be used; rules: pattern → encoding
    text:    what the result is evaluated on; None: the WikiText-2 test set
    format:  `gguf` (the default), `onnx`, whose budget counts every file of the folder, or `mlx`, whose budget counts
             the weight files

    Raises UsageError, PlanError (with the feasible range), MissingError without torch or llama.cpp. Every stage is
    kept: an interrupted run goes on, and another budget for the same source needs no calibration.
    """
    say, bar = remark or _nothing, progress or Silent()
    if effort not in EFFORTS:
        raise UsageError(f"no effort {effort!r}", expected=" or ".join(EFFORTS))
    if format not in (None, *FORMATS):
        raise UsageError(f"--format {format} is not searched", expected=" or ".join(FORMATS))
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", expected="a folder, which is made when it is absent")
    opened = open_source(source, revision=revision, offline=offline, preflight=families.load_model, progress=progress)
    model = families.load_model(opened)
    budgets.check(size=size, bpw=bpw, like=like, memory=memory)
    if format in ("onnx", "mlx"):
        if EFFORTS[effort]:
            raise UsageError(f"--effort {effort} is not there for {format}", expected="fast or balanced")
        return _folder(
            format, opened, model, folder, size=size, bpw=bpw, like=like, memory=memory, calibration=calibration,
            tokens=tokens, keep=keep, exclude=exclude, rules=rules, text=text, windows=windows, device=device,
            threads=threads, bar=bar, say=say, probing=effort != "fast",
        )  # fmt: skip
    wishes = Wishes(keep=keep, exclude=exclude, rules=dict(rules or {}))
    wishes.check(model)
    # What is impossible is said before anything slow is done about it.
    feasible = limits(opened, unmeasured(model).choices(model, wishes.allow(model)))
    footprint = Footprint(opened, memory, context, feasible, threads, bar) if memory is not None else None
    allow = partial(budgets.budget, opened, model, size=size, bpw=bpw, like=like)
    allowed = footprint.budget if footprint else allow()
    feasible.check(allowed.nbytes)
    notes = [*model.notes, *lattice.told(lattice.recognised(model.tensors))]
    if allowed.nbytes > feasible.most:
        notes.append(
            f"the budget is more than can be used: {feasible.least:,} bytes are the smallest file, {feasible.most:,} "
            "the largest"
        )
    if text is not None:
        read_text(text)
    clock = _Clock()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (p for pattern in _SCRATCH for p in folder.glob(pattern)):  # of a run that was killed
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
    stats = folder / "statistics"
    named = calibration  # text sampled from the model becomes files
    calibration = sampled.resolve(named, opened, model, tokens=tokens, device=device, progress=bar).paths
    calibrated = calibrate(opened, stats, calibration=calibration, tokens=tokens, device=device, progress=progress)
    if footprint is None:
        allowed = allow(imatrix=stats / IMATRIX)
    clock.stage("calibrate")
    say(f"calibrated on {calibrated.tokens:,} tokens" + (", kept from before" if calibrated.reused else ""))
    _gradients(model, stats, calibration, tokens, device, bar, notes)
    clock.stage("gradients")
    workers = threads or default_threads()
    costs = measure(model, statistics.read(stats), folder / "measure.json", threads=workers, progress=bar)
    clock.stage("measure")
    scale: dict[str, float] = {}
    held = stats / HELD_TEXT
    if effort != "fast" and not held.read_text(encoding="utf-8").strip():
        notes.append("the calibration text is too short to hold some of it out: predictions were not measured")
    elif effort != "fast":
        scale = probe(opened, costs, stats, held, folder / "probe.json", threads=threads, progress=bar)
        clock.stage("probe")
    plan = folder / "plan.json"
    choices = costs.choices(model, wishes.allow(model), scale)
    text_left = spare(model, calibration, tokens)
    decides = EFFORTS[effort] > 0 and able(text_left, notes)
    if footprint:
        reserve = tuning.RESERVE if decides else 0
        footprint.settle(choices, stats, plan, text_left, costs.key, reserve, bar, notes)
        allowed = footprint.budget
        clock.stage("memory")
    tunes = decides and effort == "max" and allowed.nbytes - tuning.RESERVE >= feasible.least
    room = allowed.nbytes - tunes * tuning.RESERVE
    found = fill(opened, choices, stats, room, plan)
    swaps: Swaps | None = None
    if decides:
        swaps = Swaps(opened, model, choices, found, stats, room, folder, text_left, threads)
        plan_of(choices, swaps.encodings).save(plan)  # of an earlier run, it may be ahead already
    clock.stage("search")
    say(f"planned {format_size(found.file_bytes)} of {format_size(allowed.nbytes)}")
    offered = _presets(opened, stats)
    sizes = {name: size for name, (size, _) in offered.items()}
    rows = _rows(opened, folder, plan, stats, allowed, sizes)
    hashes = opened.hashes(bar)
    for row, how in rows:
        steps.make(row, opened, model, hashes, how, threads, False, bar)
    clock.stage("write")
    if swaps is not None:
        swaps.run(Path(rows[0][0].path or ""), plan, EFFORTS[effort], bar)
        kept = sum(one["kept"] for one in swaps.state.tries)
        say(f"tried {len(swaps.state.tries)} swaps of encodings, kept {kept}")
        clock.stage("swaps")
    tuned: tuning.Distilled | None = None
    if tunes:
        ours = Path(rows[0][0].path or "")
        tuned = tuning.tune(
            opened, model, ours, plan, stats, ours.with_name(f"{steps.base_name(opened)}-{tuning.NAME}.gguf"),
            calibration, tokens, text_left, device=device, threads=threads, progress=bar, notes=notes,
        )  # fmt: skip
        clock.stage("distill")
    if swaps is not None:
        rows = _rows(opened, folder, plan, stats, allowed, sizes, tuned is not None and tuned.kept)
        for row, how in rows:
            steps.make(row, opened, model, hashes, how, threads, False, bar)
    if footprint:
        rows = footprint.within(rows)
        clock.stage("memory")
    listed = [row for row, _ in rows]
    result = _prove(opened, model, listed, folder, hashes, text, windows, threads, bar, notes)
    clock.stage("prove")
    by_kind = domains(
        listed, opened, text_left, folder,
        Kept(folder, hashes, RUNTIME.available().version), threads, bar,
    ) if result.evaluation else {}  # fmt: skip
    drawn = curve(choices, costs.choices(model, None, scale), feasible, offered)
    best = next(r for r in listed if r.name == result.recommended["name"])
    remembered = footprint.tell(best, text_left, folder, bar) if footprint else None
    result.optimize = tell(
        listed, costs, drawn, by_kind, swaps.state.tries if swaps else [], tuned.to_dict() if tuned else None
    )
    result.optimize["memory"] = remembered
    clock.stage("report")
    rival = next((row for row in listed if row.name not in (NAME, tuning.NAME)), None)
    if rival is not None and best is rival:
        notes.append(f"{rival.name} came out closer than the searched plan, and is the artefact to use")
    left = _left(folder, [Path(r.path or "") for r in listed])
    if left:
        notes.append(f"of earlier runs, {', '.join(left)} are in the folder still")
    options = {
        "size": size, "bpw": bpw, "like": like, "memory": memory, "context": context if memory else None,
        "effort": effort, "calibration": tuple(named or ()), "tokens": tokens, "keep": tuple(keep),
        "exclude": ",".join(exclude) or None, "rule": tuple(f"{p}={e}" for p, e in (rules or {}).items()),
        "text": text, "windows": windows, "revision": revision,
    }  # fmt: skip
    result.command = _command(source, folder, options)
    result.report = str(folder / "report.html")
    report.write(result.to_dict(), folder)
    bar.finish()
    return OptimizeResult(
        artefact=best.path or "",
        file_bytes=best.file_bytes or 0,
        budget=allowed.nbytes,
        said=allowed.said,
        bits_per_weight=best.bits_per_weight or 0.0,
        encodings=_count(best),
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


def _folder(
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
) -> OptimizeResult:
    from importlib import import_module

    from kanna.optimize.budget import Budget

    search: Any = import_module(f"kanna.optimize.{format}")
    presets_: Any = import_module(f"kanna.plan.{format}")
    notes, clock = list(model.notes), _Clock()

    def allowed(bench: Any) -> Budget:
        if like is None or memory is not None:
            if memory is not None:
                raise UsageError(f"--memory has no use for {format}", expected="one of --size, --bpw and --like")
            return budgets.budget(opened, model, size=size, bpw=bpw, like=None)
        name = like.removeprefix(f"{format}:")
        if size is not None or bpw is not None or name not in presets_.PRESETS:
            raise UsageError(f"--like {like}", expected="alone, one of " + ", ".join(presets_.PRESETS))
        return Budget(nbytes=bench.size(preset=name) if bench else 0, said=f"the size of {format}:{name}")

    def calibrated() -> Path:
        stats = folder / "statistics"
        read = sampled.resolve(calibration, opened, model, tokens=tokens, device=device, progress=bar).paths
        found = calibrate(opened, stats, calibration=read, tokens=tokens, device=device, progress=bar)
        clock.stage("calibrate")
        say(f"calibrated on {found.tokens:,} tokens" + (", kept from before" if found.reused else ""))
        _gradients(model, stats, read, tokens, device, bar, notes)
        clock.stage("gradients")
        return stats

    made = search.optimize(
        opened, model, folder, budget=allowed, calibrated=calibrated, text=text, windows=windows, threads=threads,
        bar=bar, say=say, notes=notes, stage=clock.stage, probing=probing,
        wishes=search.wishes(model, keep=keep, exclude=exclude, rules=dict(rules or {})),
    )  # fmt: skip
    bar.finish()
    count: dict[str, int] = {}
    for tensor in made.described.tensors:
        count[tensor["encoding"]] = count.get(tensor["encoding"], 0) + 1
    result = OptimizeResult(
        artefact=str(made.artefact),
        file_bytes=made.file_bytes,
        budget=made.budget.nbytes,
        said=made.budget.said,
        bits_per_weight=8 * made.file_bytes / model.num_parameters,
        encodings=dict(sorted(count.items(), key=lambda item: -item[1])),
        predicted=made.predicted,
        kl_mean=made.kl,
        top1=made.top1,
        rival=f"{format}:{made.rival}" if made.rival else None,
        rival_kl=made.rival_kl,
        gate=made.gate,
        report=str(folder / "report.json"),
        plan=str(made.plan),
        statistics=str(made.statistics),
        swaps=None,
        seconds=clock.seconds,
        notes=notes,
    )
    Path(result.report).write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now


def _gradients(
    model: Model,
    stats: Path,
    calibration: Sequence[str | Path] | None,
    tokens: int,
    device: str | None,
    bar: Progress,
    notes: list[str],
) -> None:
    """The backward pass, where there is memory for it."""
    needed, free = gradients.bytes_needed(model), machine().available
    if needed > free:
        notes.append(
            f"a backward pass takes {format_size(needed)}, {format_size(free)} are free: tensors were weighed by their "
            "relative errors instead of their gradients"
        )
        return
    windows = cut(texts.documents(calibration, model)[0], model, tokens=tokens)
    try:
        gradients.gradients(model, windows, stats, statistics.read(stats).sha256, device=device, progress=bar)
    except KannaError as error:
        notes.append(f"{error.found}: tensors were weighed by their relative errors instead of their gradients")


def _presets(source: Source, stats: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Bytes and encodings of every plain preset with the same statistics as its importance matrix."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for preset in presets.names():
        try:
            made = convert(source, preset=preset, imatrix=stats / IMATRIX, dry_run=True)
        except KannaError:
            continue
        found[preset] = (made.file_bytes, {t["name"]: t["encoding"] for t in made.tensors})
    return found


def _rows(
    source: Source,
    folder: Path,
    plan: Path,
    stats: Path,
    allowed: Budget,
    offered: Mapping[str, int],
    tuned: bool = False,
) -> list[tuple[Row, dict[str, Any]]]:
    """The optimized artefact, the tuned one, and the largest plain preset within the budget, the first of equals."""
    name = steps.base_name(source)
    rows: list[tuple[Row, dict[str, Any]]] = []
    for mine, made_by in [(NAME, plan), (tuning.NAME, folder / tuning.PLAN)][: 1 + tuned]:
        ours: dict[str, Any] = {"plan": made_by, "statistics": stats}
        rows.append((steps.plan(source, folder / f"{name}-{mine}.gguf", mine, "candidate", ours), ours))
    within = [preset for preset, size in offered.items() if size <= allowed.nbytes]
    if within:
        best = max(within, key=lambda preset: offered[preset])
        how = {"preset": best, "imatrix": stats / IMATRIX}
        rows.append((steps.plan(source, folder / f"{name}-{best}.gguf", best, "candidate", how), how))
    return rows


def _prove(
    source: Source,
    model: Model,
    rows: list[Row],
    folder: Path,
    hashes: dict[str, str],
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    bar: Progress,
    notes: list[str],
) -> CompareResult:
    """Gate, quality and speed of every row; the recommended one has the least KL divergence among those proved."""
    kept = Kept(folder, hashes, RUNTIME.available().version)
    for row in rows:
        steps.gate(row, source, threads, kept, bar)
    evaluation = steps.measure_quality(rows, source, text, windows, threads, kept, bar, notes)
    steps.measure_speed(rows, 1, threads, bar, notes)
    able = [r for r in rows if r.gate != "failed"] or rows
    best = min(able, key=lambda r: (r.kl_mean is None, r.kl_mean or 0.0))
    other = next((r for r in rows if r is not best), None)
    why = f"{format_size(best.file_bytes or 0)}"
    if best.kl_mean is not None:
        why += f" at a mean KL divergence of {best.kl_mean:.4f} nats"
    if other is not None and other.kl_mean is not None:
        why += f"; {other.name}, {format_size(other.file_bytes or 0)}, has {other.kl_mean:.4f}"
    return CompareResult(
        name=model.name,
        source=steps.describe(source, model),
        rows=rows,
        recommended={"name": best.name, "why": why + ".", "rule": "the least mean KL divergence within the budget"},
        evaluation=evaluation,
        environment=steps.environment(threads),
        command="",
        notes=notes,
        report="",
    )


def _left(folder: Path, made: Sequence[Path]) -> list[str]:
    """Names of artefacts in the folder that this run did not make."""
    names = {p.name for p in made}
    return sorted(p.name for p in folder.glob("*.gguf") if p.name not in names and not p.name.startswith("."))


def _count(row: Row) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in row.tensors:
        found[tensor["encoding"]] = found.get(tensor["encoding"], 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _command(source: str | Path, out: Path, options: Mapping[str, Any]) -> str:
    """The command line that does the same again; options that say nothing are left out."""
    parts = ["kanna", "optimize", str(source), "-o", str(out)]
    for name, value in options.items():
        if value is None or value == () or value == _USUAL.get(name):
            continue
        many = value if isinstance(value, (list, tuple)) else [value]
        for one in many:
            parts += [f"--{name}", f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(parts)


def _nothing(_: str) -> None:
    pass
