"""The searched plan beside the largest plain preset within the budget.

Both written, both judged, one chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from kanna._util.progress import Progress
from kanna.comparison.steps import base_name, described, setting, take
from kanna.evaluation import evaluate_many
from kanna.families import hf_names
from kanna.formats.gguf.write import WriteResult
from kanna.model import Model
from kanna.optimization.budget import Budget
from kanna.optimization.measure import Measured
from kanna.optimization.report_data import curve, tell
from kanna.optimization.result import Made
from kanna.optimization.rows import pick
from kanna.optimization.search import NAME, Found
from kanna.optimization.tuning import distill
from kanna.optimization.tuning.distill import Distilled
from kanna.optimization.tuning.distill_folder import Folder, Tune
from kanna.plan import Plan
from kanna.plan.allocate import Choice
from kanna.sources import Source
from kanna.verification import verify


class Bench(Protocol):
    """A source: what a plan or a preset makes of it, and the bytes of every preset."""

    @property
    def source(self) -> Source: ...

    @property
    def model(self) -> Model: ...

    @property
    def statistics(self) -> Path | None: ...

    def work(
        self, out: Path, *, plan: Path | Plan | None = None, preset: str | None = None
    ) -> Any: ...

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
    measured: Measured,
    choices: Sequence[Choice],
    free: Sequence[Choice],
    tune: Tune | None,
    subject: Callable[[Any, Path], Folder],
    text: str | Path | None,
    windows: int | None,
    threads: int | None,
    bar: Progress,
    stage: Callable[[str], None],
) -> Made:
    """Write both with `write` into `folder`, evaluate both in their runtime, and name the closer one that the gate
    does not refuse. tune: tunes the first, which `subject` gives the form for, where that is asked for.

    Args:
        measured, choices, free: The costs, what the planner chose from, and that without the user's
            wishes.
    """
    base, taught = base_name(bench.source), distill.beside(plan, distill.PLAN)
    works = {NAME: bench.work(folder / f"{base}-{NAME}-{format}", plan=plan)}
    sizes = bench.sizes()
    within = {name: size for name, size in sizes.items() if size <= allowed.nbytes}
    largest = max(within, key=lambda name: within[name]) if within else None
    rival = f"{format}:{largest}"
    if largest is not None:
        works[rival] = bench.work(folder / f"{base}-{largest}-{format}", preset=largest)
    written = {name: write(work).file_bytes for name, work in works.items()}
    stage("write")
    tuned: Distilled | None = None
    if tune is not None:
        out = folder / f"{base}-{distill.NAME}-{format}"
        tuned = tune(subject(works[NAME], out), plan)
        stage("distill")
        if tuned is not None and tuned.kept:
            works[distill.NAME] = bench.work(out, plan=taught)
            written[distill.NAME] = bench.size(plan=taught)
    scores = evaluate_many(
        [work.out for work in works.values()],
        reference=bench.source,
        text=text,
        windows=windows,
        threads=threads,
        progress=bar,
    )
    rows = {
        name: described(work.describe(), work.out, name, "candidate", format)
        for name, work in works.items()
    }
    for (name, row), score in zip(rows.items(), scores, strict=True):
        row.file_bytes, row.command = written[name], ""
        take(row, score.to_dict())
    for row in sorted(rows.values(), key=lambda row: row.kl_mean or 0.0):
        proof = verify(bench.source, row.path or "", threads=threads, progress=bar).to_dict()
        row.gate, row.checks = proof["status"], proof["checks"]
        if row.gate != "failed":
            break
    stage("prove")
    listed = list(rows.values())
    picked = pick(listed)
    notes = list(dict.fromkeys(note for score in scores for note in score.notes))
    if distill.NAME in rows and picked["name"] != distill.NAME:
        refused = rows[distill.NAME].gate == "failed"
        why = "the gate refused it" if refused else "its runtime found another closer"
        notes.append(
            f"tuning brought the values closer, but {why}: the tuned folder is not the one to use"
        )
    told = tuned.to_dict() if tuned else None
    ours = {theirs: name for name, theirs in hf_names(bench.model).items()}
    offered: dict[str, tuple[int, dict[str, str]]] = {}
    for name, size in sizes.items():
        every: list[dict[str, str]] = bench.work(folder / name, preset=name).describe().tensors
        offered[f"{format}:{name}"] = (
            size,
            {ours.get(t["name"], t["name"]): t["encoding"] for t in every},
        )
    return Made(
        rows=listed,
        best=rows[picked["name"]],
        rival=rows.get(rival),
        recommended=picked,
        evaluation=setting(scores[0].to_dict()),
        budget=allowed,
        plan=taught if picked["name"] == distill.NAME else plan,
        predicted=found.predicted,
        statistics=bench.statistics or folder,
        notes=notes,
        tuning=told,
        story=tell(
            listed, measured, curve(choices, free, found.fixed, offered), tuned=told, names=ours
        ),
    )
