"""Optimize for onnxruntime.

The ONNX folder closest to the source within a budget, one encoding per node.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.calibration import HELD_TEXT, statistics
from kanna.conversion.base import Request, Running
from kanna.conversion.nbits import EMBEDDING, ToNBits
from kanna.encodings import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.errors import PlanError, UsageError
from kanna.formats.onnx import build as build_
from kanna.formats.onnx import quantize
from kanna.hardware.cpu import default_threads
from kanna.model import F32, Model, columns, num_rows, num_weights
from kanna.optimization.budget import Budget
from kanna.optimization.contest import contest
from kanna.optimization.measure import Measured, measure
from kanna.optimization.onnx_probe import judge, probe
from kanna.optimization.result import Made
from kanna.optimization.search import NAME, Found, Limits, Wishes, least_of, narrow, plan_of
from kanna.optimization.tuning.distill import RESERVE
from kanna.optimization.tuning.distill_folder import Folder, Tune
from kanna.plan import Plan
from kanna.plan import onnx as presets
from kanna.plan.allocate import Choice, Option, allocate
from kanna.sources import Source

CANDIDATES = (
    "nbits2g32",
    "nbits2g64",
    "nbits4g16",
    "nbits4g16s",
    "nbits4g32",
    "nbits4g32s",
    "nbits4g64",
    "nbits4g128",
    "nbits8g32",
    "nbits8g64s",
    "nbits8g128s",
    "f32",
)
"""What onnxruntime's CPU kernels multiply by at full speed.

2 bits in groups of 16 take a hundred times longer.
"""


def wishes(
    model: Model, *, keep: Sequence[str], exclude: Sequence[str], rules: Mapping[str, str]
) -> Wishes:
    """What the user wants of some tensors, among the encodings of ONNX."""
    return Wishes(keep=keep, exclude=exclude, rules=rules, kept="f32", names=CANDIDATES)


# Time of a product with a vector per weight, of nbits4g32, on a core with AVX-512 VNNI
# (docs/onnx.md).
_TIMES = {
    (2, 32): 1.7,
    (2, 64): 1.0,
    (4, 16): 1.32,
    (4, 32): 1.0,
    (4, 64): 0.89,
    (4, 128): 0.7,
    (8, 32): 1.39,
    (8, 64): 1.25,
    (8, 128): 1.2,
}
_FLOAT_TIME = 6.0
_BISECTIONS = 7


def time_of(encoding: str) -> float:
    """What decoding spends on a weight of this encoding, relative to nbits4g32."""
    kind = parse(encoding)
    return _TIMES[kind.bits, kind.group] if kind else _FLOAT_TIME


def seen(encoding: Encoding, x: F32) -> F32 | None:
    """Inputs f32 [tokens, columns] as a node of accuracy_level 4 sees them.

    Whole numbers up to 127 per group.
    """
    kind = parse(encoding.name)
    if kind is None:
        return None
    groups = x.reshape(len(x), -1, kind.group)
    scale = np.maximum(np.abs(groups).max(axis=2, keepdims=True), np.float32(1e-30)) / np.float32(
        127
    )
    return (np.rint(groups / scale) * scale).reshape(x.shape)


def nbytes(rows: int, cols: int, encoding: str) -> int:
    """Bytes of a matrix in the external data, with what aligns its planes."""
    kind = parse(encoding)
    return rows * kind.row_bytes(cols) if kind else 4 * rows * cols


def choices(
    work: ToNBits, measured: Measured, wishes: Wishes, scale: Mapping[str, float]
) -> list[Choice]:
    """What `allocate` takes: one choice per node, named by its first matrix.

    Q, k and v are one node.
    """
    model, allowed = work.model, wishes.allow(work.model)
    found: list[Choice] = []
    for members in nodes(work):
        if any(m not in measured.costs for m in members):
            continue
        options: list[Option] = []
        for encoding in measured.costs[members[0]]:
            if not all(allowed(m, encoding) for m in members):
                continue
            cost = sum(measured.costs[m][encoding] * scale.get(m, 1.0) for m in members)
            tensors = [model.tensors[m] for m in members]
            size = sum(nbytes(num_rows(t), columns(t), encoding) for t in tensors)
            options.append(Option(encoding=encoding, nbytes=size, cost=cost))
        if not options:
            raise UsageError(
                f"no encoding is left for {', '.join(members)}", todo="exclude fewer encodings"
            )
        found.append(Choice(name=members[0], options=options))
    return found


def nodes(work: ToNBits) -> list[list[str]]:
    """The matrices of each node, by GGUF name."""
    found: list[list[str]] = []
    for theirs, ours in work.ours.items():
        members = [work.ours[n] for n in quantize.joined(theirs, work.tensors)]
        if members[0] == ours:
            found.append(members)
    return found


def spread(plan: Plan, work: ToNBits) -> Plan:
    """The plan of one rule per node, with a rule for every matrix of it."""
    members = {m[0]: m for m in nodes(work)}
    rules = [
        rule.model_copy(update={"pattern": f"^{re.escape(name)}$"})
        for rule in plan.rules
        for name in members[rule.pattern.strip("^$").replace("\\", "")]
    ]
    return plan.model_copy(update={"rules": rules, "encoding": "f32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A source and its float graph: what a plan or a preset makes of them, to the byte."""

    source: Source
    model: Model
    graph: Path
    statistics: Path

    def work(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> ToNBits:
        request = Request(plan=plan, preset=preset, statistics=self.statistics)
        return ToNBits(self.source, self.model, out, request)

    def size(self, *, plan: Path | Plan | None = None, preset: str | None = None) -> int:
        """Bytes of the whole folder."""
        return self.work(Path(NAME), plan=plan, preset=preset).folder_bytes(self.graph)

    def sizes(self) -> dict[str, int]:
        """Of every preset."""
        return {name: self.size(preset=name) for name in presets.PRESETS}


def build(source: Source, model: Model, folder: Path, running: Running) -> Path:
    """The float32 graph of the source in `folder`, kept for the next budget."""
    graph, mark = folder / "graph", folder / "graph.json"
    now = json.dumps(source.hashes(), sort_keys=True)
    if graph.is_dir() and mark.is_file() and mark.read_text(encoding="utf-8") == now:
        return graph
    shutil.rmtree(graph, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=folder) as scratch:
        work = ToNBits(source, model, folder / NAME, Request(preset="int4"))
        work.build(Path(scratch), running).replace(graph)
    mark.write_text(now, encoding="utf-8")
    return graph


def search(bench: Bench, choices_: Sequence[Choice], budget: int, path: Path) -> Found:
    """Write the best plan whose folder has at most `budget` bytes to `path`.

    PlanError with the feasible range.

    The plan decodes no slower than a mix of the builder's 4- and 8-bit nodes of as many bytes.
    """
    work = bench.work(Path(NAME), preset="int4")

    def planned(taken: Mapping[str, str]) -> Plan:
        return spread(plan_of(choices_, taken), work)

    weights = {m[0]: sum(num_weights(work.model.tensors[n]) for n in m) for m in nodes(work)}
    return narrow(
        choices_,
        Limits.of(choices_, bench.size(plan=planned(least_of(choices_)))),
        budget,
        path,
        size=lambda plan: bench.size(plan=plan),
        plan=planned,
        share=lambda among, room: within(among, room, weights, work.tied),
    )


def within(
    choices_: Sequence[Choice], room: int, weights: Mapping[str, int], tied: bool
) -> dict[str, Option]:
    """The least cost within `room` bytes and the time of the builder's mix of that size.

    Time has a price, bisected.

    and take no time

    Args:
        weights: Of every choice.
        tied: The embedding is the head, too: if not, its rows are looked up.
    """
    # Of the builder: 5 bits per weight at 4 bits in groups of 32, 9 at 8.
    share = min(max((8 * room / max(sum(weights.values()), 1) - 5) / 4, 0.0), 1.0)
    if not tied:
        weights = {**weights, EMBEDDING: 0}

    def time(taken: Mapping[str, Option]) -> float:
        return sum(weights[name] * time_of(option.encoding) for name, option in taken.items())

    total = sum(weights.values())
    limit = total * (1 + share * (_TIMES[8, 32] - 1))

    def priced(price: float) -> dict[str, Option]:
        dearer = [
            Choice(
                name=c.name,
                options=[
                    replace(o, cost=o.cost + price * weights[c.name] * time_of(o.encoding))
                    for o in c.options
                ],
            )
            for c in choices_
        ]
        costs = {c.name: {o.encoding: o for o in c.options} for c in choices_}
        return {name: costs[name][o.encoding] for name, o in allocate(dearer, room).items()}

    best = priced(0.0)
    if time(best) <= limit:
        return best
    # A price at which the whole cost is spent on time is more than enough; half of it, again and
    # again, is not.
    low, high = 0.0, 4 * sum(max(o.cost for o in c.options) for c in choices_) / max(total, 1)
    quick = priced(high)
    if time(quick) > limit:
        return quick
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5 if low else high / 8
        now = priced(middle)
        if time(now) <= limit:
            quick, high = now, middle
        else:
            low = middle
    return quick


def optimize(
    source: Source,
    model: Model,
    folder: Path,
    *,
    budget: Callable[[Bench | None], Budget],
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
    """Plan, write and prove within a budget.

    Args:
        budget: Bytes allowed; with None before anything slow is done.
        probing: Measure what every kind of node costs.
        calibrated: Makes the folder of statistics.
    """
    build_.require()
    wishes.check(model)
    budget(None)
    folder.mkdir(parents=True, exist_ok=True)
    stats = calibrated()
    running = Running(
        threads=threads or default_threads(), overwrite=True, nonfinite="refuse", progress=bar
    )
    bench = Bench(
        source=source, model=model, graph=build(source, model, folder, running), statistics=stats
    )
    stage("graph")
    allowed = budget(bench)
    costs = measure(
        model,
        statistics.read(stats),
        folder / "measure-onnx.json",
        threads=running.threads,
        progress=bar,
        kinds=CANDIDATES,
        seen=seen,
    )
    stage("measure")
    plan = folder / "plan-onnx.json"
    scale: dict[str, float] = {}
    held = (stats / HELD_TEXT).read_text(encoding="utf-8")
    if probing and held.strip():

        def write(tried: Plan, to: Path) -> None:
            bench.work(to, plan=tried).write_from(bench.graph, replace(running, progress=Silent()))

        score = judge(bench, held, threads=threads)
        scale = probe(costs, score, folder / "probe-onnx.json", write=write, progress=bar)
        stage("probe")
    elif probing:
        notes.append(
            "the calibration text is too short to hold some of it out: predictions were not measured"
        )
    work = bench.work(folder / NAME, preset="int4")
    offered = choices(work, costs, wishes, scale)
    try:
        found = search(bench, offered, allowed.nbytes - bool(tune) * RESERVE, plan)
    except PlanError:  # in the smallest graph there is no room for what tells of a tuning
        tune, found = None, search(bench, offered, allowed.nbytes, plan)
    stage("search")
    say(f"planned {format_size(found.file_bytes)} of {format_size(allowed.nbytes)}")
    return contest(
        bench,
        found,
        plan,
        allowed,
        folder,
        "onnx",
        lambda work: work.write_from(bench.graph, running),
        text=text,
        windows=windows,
        threads=threads,
        bar=bar,
        stage=stage,
        tune=tune,
        measured=costs,
        choices=offered,
        free=choices(work, costs, Wishes(kept="f32", names=CANDIDATES), scale),
        subject=lambda work, out: subject(bench, work.out, plan, out, running),
    )


def subject(bench: Bench, artefact: Path, plan: Path, out: Path, running: Running) -> Folder:
    """What tunes the written folder `artefact` into `out`.

    Its norms are part of the graph, and stay.
    """
    return Folder(
        artefact=artefact,
        out=out,
        norms=False,
        reads=lambda path: bench.work(path, plan=plan).held(bench.graph),
        writes=lambda tuned: bench.work(out, plan=tuned).write_from(bench.graph, running),
    )
