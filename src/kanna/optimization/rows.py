"""The optimized artefact and the plain preset beside it: made and proved as `compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration import IMATRIX
from kanna.comparison import CompareResult, steps
from kanna.comparison.result_cache import Kept
from kanna.comparison.rows import Row
from kanna.conversion import convert
from kanna.errors import KannaError
from kanna.model import Model
from kanna.optimization.budget import Budget
from kanna.optimization.search import NAME
from kanna.optimization.tuning import distill as tuning
from kanna.plan import gguf
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source


def offers(source: Source, stats: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Bytes and encodings of every plain preset with the same statistics as its importance matrix."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for preset in gguf.names():
        try:
            made = convert(source, preset=preset, imatrix=stats / IMATRIX, dry_run=True)
        except KannaError:
            continue
        found[preset] = (made.file_bytes, {t["name"]: t["encoding"] for t in made.tensors})
    return found


def beside(
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
        rows.append(
            (steps.plan(source, folder / f"{name}-{mine}.gguf", mine, "candidate", ours), ours)
        )
    within = [preset for preset, size in offered.items() if size <= allowed.nbytes]
    if within:
        best = max(within, key=lambda preset: offered[preset])
        how = {"preset": best, "imatrix": stats / IMATRIX}
        rows.append(
            (steps.plan(source, folder / f"{name}-{best}.gguf", best, "candidate", how), how)
        )
    return rows


def prove(
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
    """Gate, quality and speed of every row.

    The recommended one has the least KL divergence among those proved.
    """
    kept = Kept(folder, hashes, RUNTIME.available().version)
    for row in rows:
        steps.gate(row, source, threads, kept, bar)
    evaluation = steps.measure_quality(rows, source, text, windows, threads, kept, bar, notes)
    steps.measure_speed(rows, 1, threads, bar, notes)
    return CompareResult(
        name=model.name,
        source=steps.describe(source, model),
        rows=rows,
        recommended=pick(rows),
        evaluation=evaluation,
        environment=steps.environment(threads),
        command="",
        notes=notes,
        report="",
    )


def pick(rows: Sequence[Row]) -> dict[str, str]:
    """The one of least KL divergence that the gate did not refuse, and why."""
    able = [r for r in rows if r.gate != "failed"] or rows
    best = min(able, key=lambda r: (r.kl_mean is None, r.kl_mean or 0.0))
    other = next((r for r in rows if r is not best), None)
    why = f"{format_size(best.file_bytes or 0)}"
    if best.kl_mean is not None:
        why += f" at a mean KL divergence of {best.kl_mean:.4f} nats"
    if other is not None and other.kl_mean is not None:
        why += f"; {other.name}, {format_size(other.file_bytes or 0)}, has {other.kl_mean:.4f}"
    return {
        "name": best.name,
        "why": why + ".",
        "rule": "the least mean KL divergence within the budget",
    }


def left_over(folder: Path, made: Sequence[Path], pattern: str, notes: list[str]) -> list[str]:
    """Names of artefacts in the folder, all like `pattern`, that this run did not make.

    `notes` says so.
    """
    names = {p.name for p in made}
    left = sorted(
        p.name for p in folder.glob(pattern) if p.name not in names and not p.name.startswith(".")
    )
    if left:
        notes.append(f"of earlier runs, {', '.join(left)} are in the folder still")
    return left
