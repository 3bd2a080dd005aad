"""Make, prove, measure and report several presets of one source, in one format or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kanna import formats as known_formats
from kanna import report
from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.comparison import steps
from kanna.comparison.formats import PresetChoice, choices
from kanna.comparison.pairs import pairs
from kanna.comparison.result_cache import Kept
from kanna.comparison.rows import CompareResult, Row, recommend
from kanna.errors import KannaError, UsageError
from kanna.evaluation.windows import read_text
from kanna.sources import Source, open_source

__all__ = ["CompareResult", "Row", "compare", "recommend"]

_FLOOR_LIMIT = 1_500_000_000
"""Parameters beyond which the floor is not measured: it needs the weights in float32 once more."""


def compare(
    source: str | Path,
    *,
    presets: Sequence[str] | None = None,
    formats: Sequence[str] = (known_formats.DEFAULT,),
    out: str | Path,
    text: str | Path | None = None,
    windows: int | None = None,
    imatrix: str | Path | None = None,
    repeat: int = steps.REPEAT,
    threads: int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> CompareResult:
    """Convert `source` with several presets, then verify, evaluate, bench and report them.

    Presets of different formats are paired by total bytes. The baseline is 16 bits in GGUF, or what of another
    format is nearest to the source's own weights. A format that cannot hold the model is left out with a note.
    Artefacts that are there already with the same provenance are kept, unless `overwrite`, and so is what was found out
    about them, but for their speed. `remark` gets a sentence about each finished step.

    Raises PlanError for an unknown preset before anything is written; an artefact that fails the gate is in the result
    and never recommended. Without llama.cpp the files are made and reported unmeasured.

    Args:
        source: What is converted.
        presets: `Q4_K_M` of GGUF, `onnx:int4` of another format; a format without any gets its own.
        formats: Which take part.
        out: The folder for artefacts and report.
        text: A file to evaluate on; None: the WikiText-2 test set.
        windows: Windows of 512 tokens to evaluate; None: as `evaluate` does.
        imatrix: llama.cpp's importance matrix, for presets of GGUF.
        repeat: Rounds of the speed test.
        threads: Threads to use; None: one per physical core.
        overwrite: Make every artefact again.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        progress: Where progress is reported; None: nowhere.
        remark: Called with a sentence about each finished step.
    """
    from kanna import families

    say, bar = remark or _nothing, progress or Silent()
    chosen = choices(formats, presets)
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder, which is made when it is absent")
    opened = open_source(
        source, revision=revision, offline=offline, preflight=families.load_model, progress=progress
    )
    model = families.load_model(opened)
    name = steps.base_name(opened)
    if text is not None:
        read_text(text)
    notes = list(model.notes)
    rows, how = _plan(opened, chosen, out, name, imatrix, notes)
    used = list(dict.fromkeys(r.format for r in rows))
    out.mkdir(parents=True, exist_ok=True)
    hashes = opened.hashes(bar)
    kept = Kept(out, hashes, ", ".join(steps.versions(used).values()))
    for row in rows:
        steps.make(row, opened, model, hashes, how[row.name], threads, overwrite, bar, kept)
        say(
            f"{row.name}: {format_size(row.file_bytes or 0)}"
            + (", kept from before" if row.reused else "")
        )
    for row in rows:
        steps.gate(row, opened, threads, kept, bar)
        if row.gate != "proved":
            say(f"{row.name}: {'the gate failed' if row.gate == 'failed' else 'not provable here'}")
    evaluation = steps.measure_quality(rows, opened, text, windows, threads, kept, bar, notes)
    steps.measure_speed(rows, repeat, threads, bar, notes)
    small_enough = model.num_parameters <= _FLOOR_LIMIT
    if (
        evaluation
        and small_enough
        and (floor := steps.floor(rows, text, windows, threads, kept, bar))
    ):
        rows.insert(1, floor)
    result = CompareResult(
        name=name,
        source=steps.describe(opened, model),
        rows=rows,
        recommended=recommend(rows),
        evaluation=evaluation,
        environment=steps.environment(threads, used),
        command=steps.command(
            source, [c.name for c in chosen], out, text, windows, imatrix, revision, repeat, formats
        ),
        pairs=pairs(rows),
        notes=notes,
        report=str(out / "report.html"),
    )
    report.write(result.to_dict(), out)
    bar.finish()
    return result


def _plan(
    source: Source,
    chosen: Sequence[PresetChoice],
    out: Path,
    name: str,
    imatrix: str | Path | None,
    notes: list[str],
) -> tuple[list[Row], dict[str, dict[str, object]]]:
    """Rows of what will be made, the baseline first, and how each is converted.

    What a format refuses goes to `notes`.

    Raises what makes the first format's conversions impossible.
    """
    first = chosen[0].format
    whole = known_formats.get(first).whole_presets[steps.source_type(source)]
    base = PresetChoice(format=first, preset=whole, named=True)
    rows: list[Row] = []
    how: dict[str, dict[str, object]] = {}
    for choice in [base, *[c for c in chosen if c.name != base.name]]:
        # An importance matrix says nothing about 16 bits.
        weighted = (
            imatrix if choice.format == known_formats.DEFAULT and choice is not base else None
        )
        how[choice.name] = {"preset": choice.name, "imatrix": weighted}
        role = "baseline" if choice is base else "candidate"
        try:
            rows.append(
                steps.plan(source, choice.path(out, name), choice.name, role, how[choice.name])
            )
        except KannaError as error:
            if choice.format == first or (choice.named and isinstance(error, UsageError)):
                raise
            notes.append(f"{choice.name} was left out: {error.found}")
    return rows, how


def _nothing(_: str) -> None:
    pass
