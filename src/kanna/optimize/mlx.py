"""Optimize for mlx-lm: the MLX folder closest to the source within a budget of weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import statistics
from kanna.compare.steps import base_name
from kanna.convert.base import Request, Running
from kanna.convert.mlx import ToMLX, number_of
from kanna.encodings.grouped.affine import name_of
from kanna.errors import PlanError
from kanna.hardware.cpu import default_threads
from kanna.model import Model
from kanna.optimize.budget import Budget
from kanna.optimize.measure import measure
from kanna.optimize.result import Made
from kanna.optimize.search import NAME, Found, Limits, Wishes, plan_of
from kanna.plan import Plan
from kanna.plan import mlx as presets
from kanna.plan.allocate import Choice, allocate, largest, smallest
from kanna.progress import Progress
from kanna.sources import Source
from kanna.units import format_size

_KINDS = tuple((bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128))


def candidates(number: str) -> tuple[str, ...]:
    """Encodings for a model whose scales are of type `number`, which is also what is left alone."""
    return (*(name_of(bits, group, number) for bits, group in _KINDS), number)


def wishes(model: Model, *, keep: Sequence[str], exclude: Sequence[str], rules: Mapping[str, str]) -> Wishes:
    """What the user wants of some tensors, among the encodings of MLX; `affine4g64` means the model's own type."""
    number = number_of(model)

    def own(name: str) -> str:
        return name if number == "bf16" or "_" in name or not name.startswith("affine") else f"{name}_{number}"

    return Wishes(
        keep=keep,
        exclude=[own(e) for e in exclude],
        rules={pattern: own(e) for pattern, e in rules.items()},
        kept=number,
        names=candidates(number),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A source with its statistics: what a plan or a preset makes of it, to the byte."""

    source: Source
    model: Model
    statistics: Path | None = None

    def work(self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None) -> ToMLX:
        request = Request(plan=plan, preset=preset, statistics=self.statistics)
        return ToMLX(self.source, self.model, out, request)

    def size(self, *, plan: Path | Plan | None = None, preset: str | None = None) -> int:
        """Bytes of the weight files."""
        return self.work(Path(NAME), plan=plan, preset=preset).describe().file_bytes

    def sizes(self) -> dict[str, int]:
        """Of every preset, of which `exact` is none to choose."""
        return {name: self.size(preset=name) for name in presets.PRESETS if name != "exact"}


def search(bench: Bench, choices: Sequence[Choice], budget: int, path: Path) -> Found:
    """Write to `path` the best plan whose weight files have at most `budget` bytes. PlanError with what is feasible."""
    smallest_of_all = {c.name: min(c.options, key=lambda o: o.nbytes).encoding for c in choices}
    least = bench.size(plan=plan_of(choices, smallest_of_all))
    floor = smallest(choices)
    feasible = Limits(least=least, most=least - floor + largest(choices), fixed=least - floor)
    feasible.check(budget)
    room = budget - feasible.fixed
    while True:
        taken = allocate(choices, room)
        plan_of(choices, {name: option.encoding for name, option in taken.items()}).save(path)
        size = bench.size(plan=path)
        if size <= budget:
            return Found(
                file_bytes=size,
                predicted=sum(o.cost for o in taken.values()),
                encodings={name: option.encoding for name, option in taken.items()},
            )
        if room == floor:
            raise PlanError(f"the smallest folder takes {size:,} bytes", expected=f"at most {budget:,}")
        room = max(floor, room - (size - budget))


def optimize(
    source: Source,
    model: Model,
    folder: Path,
    *,
    budget: Callable[[Any], Budget],
    wishes: Wishes,
    probing: bool,
    calibrated: Callable[[], Path],
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    bar: Progress,
    say: Callable[[str], None],
    notes: list[str],
    stage: Callable[[str], None],
) -> Made:
    """Plan, write and prove within a budget; see kanna.optimize.onnx, which takes the same."""
    from kanna.evaluate import evaluate_many

    wishes.check(model)
    allowed = budget(Bench(source=source, model=model))
    folder.mkdir(parents=True, exist_ok=True)
    stats = calibrated()
    bench = Bench(source=source, model=model, statistics=stats)
    running = Running(threads=threads or default_threads(), overwrite=True, nonfinite="refuse", progress=bar)
    costs = measure(
        model, statistics.read(stats), folder / "measure-mlx.json", threads=running.threads, progress=bar,
        kinds=candidates(number_of(model)),
    )  # fmt: skip
    stage("measure")
    plan = folder / "plan.json"
    found = search(bench, costs.choices(model, wishes.allow(model)), allowed.nbytes, plan)
    stage("search")
    say(f"planned {format_size(found.file_bytes)} of {format_size(allowed.nbytes)}")
    base = base_name(source)
    made = {NAME: bench.work(folder / f"{base}-{NAME}-mlx", plan=plan)}
    within = {name: size for name, size in bench.sizes().items() if size <= allowed.nbytes}
    rival = max(within, key=lambda name: within[name]) if within else None
    if rival is not None:
        made[rival] = bench.work(folder / f"{base}-{rival}-mlx", preset=rival)
    sizes = {name: work.write(running).file_bytes for name, work in made.items()}
    stage("write")
    scores = evaluate_many(
        [work.out for work in made.values()],
        reference=source,
        text=text,
        windows=windows,
        threads=threads,
        progress=bar,
    )
    by_name = dict(zip(made, scores, strict=True))
    notes += [n for n in dict.fromkeys(n for s in scores for n in s.notes) if n not in notes]
    stage("prove")
    best = min(made, key=lambda name: by_name[name].kl_mean)
    if best != NAME:
        notes.append(f"{best} came out closer than the searched plan, and is the artefact to use")
    return Made(
        artefact=made[best].out, described=made[best].describe(), file_bytes=sizes[best], budget=allowed,
        plan=plan, predicted=found.predicted, kl=by_name[best].kl_mean, top1=by_name[best].top1, rival=rival,
        rival_kl=by_name[rival].kl_mean if rival else None, statistics=stats,
    )  # fmt: skip
