"""Make, prove, measure and report several presets of one source, in one format or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanna import conversion, families
from kanna import formats as known_formats
from kanna._util.arguments import names
from kanna._util.bars import shown
from kanna._util.locks import holding
from kanna._util.own_files import sweep_for
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.comparison.artefacts import make
from kanna.comparison.context import ComparisonContext
from kanna.comparison.description import command, environment, versions
from kanna.comparison.formats import choices
from kanna.comparison.gate import gate
from kanna.comparison.live_report import LiveReport
from kanna.comparison.planning import PlannedComparison, plan_rows
from kanna.comparison.quality import check_reference, measure_floor, measure_quality
from kanna.comparison.result_cache import ResultCache
from kanna.comparison.rows import CompareResult, Row, recommend
from kanna.comparison.speed import REPEAT, measure_speed
from kanna.errors import UsageError
from kanna.evaluation.precision import choose as evaluation_extent
from kanna.evaluation.windows import read_text, text_for
from kanna.sources import open_source

__all__ = ["CompareResult", "Row", "compare", "recommend"]

_FLOOR_LIMIT = 1_500_000_000
"""Parameters beyond which the floor is not measured: it needs the weights in float32 once more."""


def compare(
    source: str | Path,
    *,
    presets: str | Sequence[str] | None = None,
    formats: str | Sequence[str] = (known_formats.DEFAULT,),
    out: str | Path,
    text: str | Path | None = None,
    windows: int | None = None,
    precision: float | str | None = None,
    imatrix: str | Path | None = None,
    repeat: int = REPEAT,
    threads: int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> CompareResult:
    """Convert `source` with several presets, then verify, evaluate, bench and report them.

    Presets of different formats are paired by total bytes. The baseline is 16 bits in GGUF, or what
    of another format is nearest to the source's own weights. A format that cannot hold the model is
    left out with a note. Files that are there already with the same provenance are kept, unless
    `overwrite`, and so are their results, but for speed. `remark` gets a sentence about each
    finished step.

    Raises PlanError for an unknown preset, and GateError where our reading of the source is not
    that of its own library, before anything is written; a file that fails the gate is in the
    result and never recommended. Without llama.cpp the files are made and reported unmeasured.

    Args:
        source: What is converted.
        presets: `Q4_K_M` of GGUF, `onnx:int4` of another format; a format without any gets its own.
        formats: Which take part.
        out: The folder for files and report.
        text: A file to evaluate on; None: the WikiText-2 test set.
        windows: Windows of 512 tokens to evaluate; None: as many as the precision takes.
        precision: `5%` or 0.05, as of `evaluate`; None: 5 %, unless `windows` are given.
        imatrix: llama.cpp's importance matrix, for presets of GGUF.
        repeat: Rounds of the speed test.
        threads: Threads to use; None: one per physical core.
        overwrite: Make every file again.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
        remark: Called with a sentence about each finished step.
    """
    say, bar = remark or _nothing, shown(progress)
    extent = evaluation_extent(precision, windows)
    chosen, folder = choices(names(formats), names(presets) or None), Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder, which is made when it is absent")
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        preflight=families.load_decoder,
        progress=progress,
    )
    if text is not None:
        read_text(text)  # raises UsageError before anything is written
    planned = plan_rows(opened, chosen, folder, imatrix)
    used = list(dict.fromkeys(r.format for r in planned.rows))
    conversion.require_installed(used)
    check_reference(opened, used, threads=threads, progress=bar)
    with holding(folder, "compare", parents=True):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_for(folder)
        context = ComparisonContext(
            source=opened,
            model=families.load_decoder(opened),
            cache=ResultCache(folder, opened.hashes(bar), ", ".join(versions(used).values())),
            text=text_for(opened, text),
            extent=extent,
            threads=threads,
            progress=bar,
        )
        again = command(
            source,
            [c.name for c in chosen],
            folder,
            formats=names(formats),
            repeat=repeat,
            text=text,
            windows=windows,
            precision=precision,
            imatrix=imatrix,
            revision=revision,
        )
        live = LiveReport(
            context=context,
            folder=folder,
            formats=used,
            environment=environment(threads, used),
            command=again,
            notes=list(dict.fromkeys([*context.model.notes, *planned.notes])),
        )
        try:
            with live.beating():
                _fill(live, planned, say, overwrite=overwrite, repeat=repeat)
        except BaseException:
            live.stop()
            raise
        result = live.finish()
        bar.finish()
        return result


def _fill(
    live: LiveReport,
    planned: PlannedComparison,
    say: Callable[[str], None],
    *,
    overwrite: bool,
    repeat: int,
) -> None:
    """Take every step of the comparison; the page grows with each."""
    context, rows = live.context, live.rows

    def scoring(evaluation: dict[str, Any]) -> None:
        live.evaluation = evaluation
        live.show("measuring how close the files are; the figures are not final")

    for row in planned.rows:
        live.show(f"making {row.name}")
        make(row, planned.requests[row.name], context, overwrite=overwrite)
        rows.append(row)
        say(_made(row))
    for row in rows:
        live.show(f"checking {row.name}")
        gate(row, context)
        if row.gate != "proved":
            say(f"{row.name}: {_CHECKED[row.gate or '']}")
    live.show("measuring how close the files are")
    live.evaluation, notes = measure_quality(rows, context, scoring)
    live.add_notes(notes)
    live.show("measuring speed and memory")
    live.add_notes(measure_speed(rows, context, repeat=repeat))
    small_enough = context.model.num_parameters <= _FLOOR_LIMIT
    if live.evaluation and small_enough:
        live.show("measuring what the runtime's rounding costs")
        if floor := measure_floor(rows, context):
            rows.insert(1, floor)


_CHECKED = {"failed": "its checks failed", "unprovable": "not checkable here", "": "not checked"}


def _made(row: Row) -> str:
    reused = ", kept from before" if row.reused else ""
    return f"{row.name}: {format_size(row.file_bytes or 0)}{reused}"


def _nothing(_: str) -> None:
    pass
