"""The searched plan beside the largest plain preset within the budget: both written, both judged, one chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kanna.compare.steps import base_name
from kanna.evaluate import evaluate_many
from kanna.formats.gguf.write import WriteResult
from kanna.optimize import distill
from kanna.optimize.budget import Budget
from kanna.optimize.distill import Distilled
from kanna.optimize.distill_folder import Folder, Tune
from kanna.optimize.result import Made
from kanna.optimize.search import NAME, Found
from kanna.plan import Plan
from kanna.progress import Progress
from kanna.sources import Source
from kanna.verify import verify


class Bench(Protocol):
    """A source: what a plan or a preset makes of it, and the bytes of every preset."""

    @property
    def source(self) -> Source: ...

    @property
    def statistics(self) -> Path | None: ...

    def work(self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None) -> Any: ...

    def size(self, *, plan: Path | Plan | None = None, preset: str | None = None) -> int: ...

    def sizes(self) -> dict[str, int]: ...


def contest(
    bench: Bench,
    found: Found,
    plan: Path,
    allowed: Budget,
    folder: Path,
    format: str,
    write: Callable[[Any], WriteResult],
    *,
    tune: Tune | None,
    subject: Callable[[Any, Path], Folder],
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    bar: Progress,
    stage: Callable[[str], None],
) -> Made:
    """Write both with `write` into `folder`, evaluate both in their runtime, and name the closer one that the gate
    does not refuse. tune: tunes the first, which `subject` gives the form for, where that is asked for."""
    base = base_name(bench.source)
    works = {NAME: bench.work(folder / f"{base}-{NAME}-{format}", plan=plan)}
    within = {name: size for name, size in bench.sizes().items() if size <= allowed.nbytes}
    rival = max(within, key=lambda name: within[name]) if within else None
    if rival is not None:
        works[rival] = bench.work(folder / f"{base}-{rival}-{format}", preset=rival)
    sizes = {name: write(work).file_bytes for name, work in works.items()}
    stage("write")
    tuned: Distilled | None = None
    if tune is not None:
        out = folder / f"{base}-{distill.NAME}-{format}"
        tuned = tune(subject(works[NAME], out), plan)
        stage("distill")
        if tuned is not None and tuned.kept:
            works[distill.NAME] = bench.work(out, plan=folder / distill.PLAN)
            sizes[distill.NAME] = bench.size(plan=folder / distill.PLAN)
    scores = evaluate_many(
        [work.out for work in works.values()],
        reference=bench.source,
        text=text,
        windows=windows,
        threads=threads,
        progress=bar,
    )
    by_name = dict(zip(works, scores, strict=True))
    gates: dict[str, str] = {}
    for best in sorted(works, key=lambda name: by_name[name].kl_mean):
        gates[best] = verify(bench.source, works[best].out, threads=threads, progress=bar).status
        if gates[best] != "failed":
            break
    else:
        best = next(iter(gates))
    stage("prove")
    notes = list(dict.fromkeys(note for score in scores for note in score.notes))
    if tuned is not None and tuned.kept and best != distill.NAME:
        why = "the gate refused it" if gates.get(distill.NAME) == "failed" else "its runtime found another closer"
        notes.append(f"tuning brought the values closer, but {why}: the tuned folder is not the one to use")
    return Made(
        name=best, artefact=works[best].out, described=works[best].describe(), file_bytes=sizes[best], budget=allowed,
        plan=folder / distill.PLAN if best == distill.NAME else plan, tuning=tuned.to_dict() if tuned else None,
        predicted=found.predicted, kl=by_name[best].kl_mean, top1=by_name[best].top1, rival=rival,
        rival_kl=by_name[rival].kl_mean if rival else None, gate=gates[best], statistics=bench.statistics or folder,
        notes=notes, written=[work.out for work in works.values()],
    )  # fmt: skip
