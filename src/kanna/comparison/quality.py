"""Scores the artefacts of a comparison against their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kanna import formats
from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna.checks import ReferenceCheck
from kanna.closeness import grade_name
from kanna.comparison.context import ComparisonContext
from kanna.comparison.rows import Row
from kanna.errors import KannaError, MissingError
from kanna.evaluation import EvaluateResult, evaluate_many
from kanna.evaluation.reference import is_there, reference_for
from kanna.evaluation.reference_check import require
from kanna.report.write import plain
from kanna.sources import Source

QUALITY = (
    "kl_mean",
    "kl_mean_ci",
    "kl_median",
    "kl_p99",
    "kl_p999",
    "top1",
    "top1_ci",
    "perplexity",
    "perplexity_ci",
    "perplexity_ratio",
    "perplexity_ratio_ci",
)
"""Figures of an evaluation that a row has."""


def check_reference(
    source: Source,
    used: Sequence[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ReferenceCheck | None:
    """The check of the reference that artefacts will be compared with; None where none runs here.

    Args:
        source: What the artefacts will be made of.
        used: Names of their formats.
        threads: Threads to use; None: one per physical core.
        progress: Where progress is reported.

    Raises:
        GateError: It differs from what the source's own library computes.
    """
    reference = reference_for(source, _runtimes(used), progress=progress)
    return require(source, reference, threads=threads) if reference else None


def has_reference(source: Source, used: Sequence[str], *, hashed: bool = True) -> bool:
    """Whether nothing has to be written to compare artefacts of these formats with their source.

    Args:
        source: What the artefacts will be made of.
        used: Names of their formats.
        hashed: Whether the source is read to find a reference from before.
    """
    return is_there(source, _runtimes(used), hashed=hashed)


def _runtimes(used: Sequence[str]) -> list[str]:
    return [name for name in (formats.get(one).runtime for one in used) if name]


def measure_quality(
    rows: Sequence[Row],
    context: ComparisonContext,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Score every artefact that did not fail its gate against the source in float32.

    Args:
        rows: The artefacts; they get their figures, at last the final ones.
        context: What the comparison works on.
        watch: Called every few seconds, after rows got figures that are not final, with the
            evaluation so far.

    Returns:
        On what and against what they were evaluated, {} where it cannot be done; and notes.
    """
    able = [r for r in rows if r.path and r.gate != "failed"]
    # Artefacts of several runtimes have another reference.
    alone = all(r.format == formats.DEFAULT for r in able)
    settings = ("source", *_read(context), alone)
    evaluated = {r.name: context.cache.get(r.path or "", "quality", *settings) for r in able}
    new = [r for r in able if evaluated[r.name] is None]
    try:
        results = _evaluate(new, context, watch) if new else []
    except MissingError as error:
        return {}, [f"quality was not measured: {error.found}"]
    for row, result in zip(new, results, strict=True):
        evaluated[row.name] = result.to_dict()
        context.cache.put(row.path or "", "quality", plain(result.to_dict()), *settings)
    for row in able:
        take_quality(row, evaluated[row.name] or {})
    measured = [data for data in evaluated.values() if data]
    if not measured:
        return {}, []
    return setting(measured[0]), list(dict.fromkeys(n for data in measured for n in data["notes"]))


def _evaluate(
    rows: Sequence[Row],
    context: ComparisonContext,
    watch: Callable[[dict[str, Any]], None] | None,
) -> list[EvaluateResult]:
    by_path = {r.path: r for r in rows}

    def take(results: list[EvaluateResult]) -> None:
        for result in results:
            take_quality(by_path[result.path], result.to_dict())
        if watch is not None and results:
            watch(setting(results[0].to_dict()))

    return evaluate_many(
        [r.path or "" for r in rows],
        reference=context.source if context.source.merged else context.source.path,
        text=context.text,
        extent=context.extent,
        threads=context.threads,
        progress=context.progress,
        watch=take,
    )


def setting(evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """On what and against what an artefact was evaluated.

    The same for all that were evaluated together.
    """
    return {
        k: evaluated[k]
        for k in ("text", "windows", "context", "positions", "reference", "reference_perplexity")
    } | {"reference_check": evaluated.get("reference_check")}


def _read(context: ComparisonContext) -> tuple[object, ...]:
    """What decides which text is read, as a key of kept results."""
    extent = context.extent
    more = () if extent.precision is None else (extent.precision, extent.thorough)
    return (_digest(context.text), extent.windows, *more)


def _digest(text: str | Path | None) -> str:
    """What was read: the hash of a text file, or the name of the default."""
    return "default" if text is None else sha256(Path(text))


def take_quality(row: Row, data: Mapping[str, Any], names: Sequence[str] = QUALITY) -> None:
    """Give a row the figures of an evaluation."""
    for name in names:
        setattr(row, name, data[name])
    measured = {"kl_mean": row.kl_mean, "top1": row.top1, "task_loss": row.task_loss}
    row.grade = grade_name(measured)


def measure_floor(rows: Sequence[Row], context: ComparisonContext) -> Row | None:
    """KL divergence of the Q8_0 artefact against its own weights in float32.

    That is what the runtime's rounding alone costs: no choice of weights can go below it in that
    runtime. None without a Q8_0 artefact.
    """
    exact = next((r for r in rows if r.preset == "Q8_0" and r.path and r.gate != "failed"), None)
    if exact is None or exact.path is None:
        return None
    settings = ("itself", *_read(context))
    data = context.cache.get(exact.path, "floor", *settings)
    if data is None:
        try:
            [result] = evaluate_many(
                [exact.path],
                reference=exact.path,
                text=context.text,
                extent=context.extent,
                threads=context.threads,
                progress=context.progress,
            )
        except KannaError:
            return None
        data = plain(result.to_dict())
        context.cache.put(exact.path, "floor", data, *settings)
    note = (
        "the Q8_0 weights against themselves in float32: the runtime rounds activations, whatever "
        "the weights"
    )
    row = Row(name="floor", role="floor", notes=[note])
    take_quality(row, data, [n for n in QUALITY if not n.startswith("perplexity")])
    row.grade = None  # it is no file
    return row
