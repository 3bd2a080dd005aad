"""Optimize for mlx-lm: the MLX folder closest to the source within a budget of weight files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration import statistics
from kanna.conversion.base import Request, Running
from kanna.conversion.mlx import ToMLX, number_of
from kanna.encodings.grouped.affine import NUMBERS, name_of
from kanna.families import load_model
from kanna.hardware.cpu import default_threads
from kanna.model import Model
from kanna.optimization.budget import Budget
from kanna.optimization.contest import contest
from kanna.optimization.measure import measure
from kanna.optimization.result import Made
from kanna.optimization.search import NAME, Found, Limits, Wishes, least_of, narrow, plan_of
from kanna.optimization.tuning.distill_folder import Folder, Tune
from kanna.plan import Plan
from kanna.plan import mlx as presets
from kanna.plan.allocate import Choice
from kanna.sources import Source, open_source

_KINDS = tuple((bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128))


def candidates(number: str) -> tuple[str, ...]:
    """Encodings for a model whose scales are of type `number`, which is also what is left alone."""
    return (*(name_of(bits, group, number) for bits, group in _KINDS), number)


def scales_of(model: Model) -> str:
    """The type of scales and of what is left alone.

    That of the model, float16 where its matrices are float32.

    Scales and biases in float32 take two bits per weight at groups of 32, and say nothing that half
    of them does not.
    """
    wide = any(t.dtype == "f32" and len(t.shape) == 2 for t in model.tensors.values())
    number = number_of(model)
    return "f16" if number == "f32" and wide else number


def wishes(
    model: Model, *, keep: Sequence[str], exclude: Sequence[str], rules: Mapping[str, str]
) -> Wishes:
    """What the user wants of some tensors, among the encodings of MLX.

    `affine4g64` means the model's own type.
    """
    number = scales_of(model)

    def own(name: str) -> str:
        return (
            name
            if number == "bf16" or "_" in name or not name.startswith("affine")
            else f"{name}_{number}"
        )

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

    def work(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> ToMLX:
        request = Request(plan=plan, preset=preset, statistics=self.statistics)
        return ToMLX(self.source, self.model, out, request, scales_of(self.model))

    def size(self, *, plan: Path | Plan | None = None, preset: str | None = None) -> int:
        """Bytes of the weight files."""
        return self.work(Path(NAME), plan=plan, preset=preset).describe().file_bytes

    def sizes(self) -> dict[str, int]:
        """Of every preset that quantizes; `exact` is none to choose."""
        return {
            name: self.size(preset=name)
            for name in presets.PRESETS
            if name not in ("exact", *NUMBERS)
        }


def search(bench: Bench, choices: Sequence[Choice], budget: int, path: Path) -> Found:
    """Write to `path` the best plan whose weight files have at most `budget` bytes.

    PlanError with what is feasible.
    """
    rest = scales_of(bench.model)
    feasible = Limits.of(choices, bench.size(plan=plan_of(choices, least_of(choices), rest)))
    return narrow(
        choices,
        feasible,
        budget,
        path,
        size=lambda plan: bench.size(plan=plan),
        plan=lambda taken: plan_of(choices, taken, rest),
    )


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
    tune: Tune | None,
) -> Made:
    """Plan, write and prove within a budget; see kanna.optimization.onnx, which takes the same."""
    wishes.check(model)
    if scales_of(model) != number_of(model):
        notes.append(
            "the source is in float32: scales, and what is not quantized, are written in float16"
        )
    allowed = budget(Bench(source=source, model=model))
    folder.mkdir(parents=True, exist_ok=True)
    stats = calibrated()
    bench = Bench(source=source, model=model, statistics=stats)
    running = Running(
        threads=threads or default_threads(), overwrite=True, nonfinite="refuse", progress=bar
    )
    costs = measure(
        model,
        statistics.read(stats),
        folder / "measure-mlx.json",
        threads=running.threads,
        progress=bar,
        kinds=candidates(scales_of(model)),
    )
    stage("measure")
    plan = folder / "plan-mlx.json"
    choices = costs.choices(model, wishes.allow(model))
    found = search(bench, choices, allowed.nbytes, plan)
    stage("search")
    say(f"planned {format_size(found.file_bytes)} of {format_size(allowed.nbytes)}")
    return contest(
        bench,
        found,
        plan,
        allowed,
        folder,
        "mlx",
        lambda work: work.write(running),
        text=text,
        windows=windows,
        threads=threads,
        bar=bar,
        stage=stage,
        tune=tune,
        measured=costs,
        choices=choices,
        free=costs.choices(model),
        subject=lambda work, out: subject(bench, work.out, out, running),
    )


def subject(bench: Bench, artefact: Path, out: Path, running: Running) -> Folder:
    """What tunes the written folder `artefact` into `out`."""

    def write(plan: Path) -> None:
        work = bench.work(out, plan=plan)
        work.carry(artefact)
        work.write(running)

    return Folder(
        artefact=artefact,
        out=out,
        norms=True,
        reads=lambda path: load_model(open_source(path)),
        writes=write,
    )
