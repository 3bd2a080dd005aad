"""Make, prove, measure and report several presets of one source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kanna import report
from kanna.compare import steps
from kanna.compare.kept import Kept
from kanna.compare.rows import CompareResult, Row, recommend
from kanna.errors import UsageError
from kanna.evaluate.windows import read_text
from kanna.progress import Progress, Silent
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import open_source
from kanna.units import format_size

__all__ = ["CompareResult", "Row", "compare", "recommend"]

_FLOOR_LIMIT = 1_500_000_000
"""Parameters beyond which the floor is not measured: it needs the weights in float32 once more."""


def compare(
    source: str | Path,
    *,
    presets: Sequence[str],
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
    """Convert `source` with a 16-bit baseline and each preset into `out`, verify, evaluate and bench, and report.

    Artefacts that are there already with the same provenance are kept, unless `overwrite`, and so is what was found out
    about them, but for their speed. `remark` gets a sentence
    about each finished step. Raises PlanError for an unknown preset before anything is written; an artefact that fails
    the gate is in the result and never recommended. Without llama.cpp the files are made and reported unmeasured.
    """
    from kanna import families
    from kanna.plan import presets as known

    say, bar = remark or _nothing, progress or Silent()
    chosen = list(dict.fromkeys(known.get(p).name for p in presets))
    if not chosen:
        raise UsageError("no preset was given", expected="for example Q8_0,Q4_K_M")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder, which is made when it is absent")
    opened = open_source(source, revision=revision, offline=offline, preflight=families.load_model, progress=progress)
    model = families.load_model(opened)
    baseline = steps.baseline(opened)
    name = steps.base_name(opened)
    if text is not None:
        read_text(text)
    wanted = [baseline, *[p for p in chosen if p != baseline]]
    # An importance matrix says nothing about 16 bits.
    how = {p: {"preset": p, "imatrix": None if p == baseline else imatrix} for p in wanted}
    rows: list[Row] = []
    for preset in wanted:
        role = "baseline" if preset == baseline else "candidate"
        rows.append(steps.plan(opened, out / f"{name}-{preset}.gguf", preset, role, how[preset]))
    out.mkdir(parents=True, exist_ok=True)
    hashes = opened.hashes(bar)
    for row in rows:
        steps.make(row, opened, model, hashes, how[row.name], threads, overwrite, bar)
        say(f"{row.name}: {format_size(row.file_bytes or 0)}" + (", kept from before" if row.reused else ""))
    notes = list(model.notes)
    kept = Kept(out, hashes, RUNTIME.available().version)
    for row in rows:
        steps.gate(row, opened, threads, kept, bar)
        if row.gate != "proved":
            say(f"{row.name}: {'the gate failed' if row.gate == 'failed' else 'not provable here'}")
    evaluation = steps.measure_quality(rows, opened, text, windows, threads, kept, bar, notes)
    steps.measure_speed(rows, repeat, threads, bar, notes)
    small_enough = model.num_parameters <= _FLOOR_LIMIT
    if evaluation and small_enough and (floor := steps.floor(rows, text, windows, threads, kept, bar)):
        rows.insert(1, floor)
    result = CompareResult(
        name=name,
        source=steps.describe(opened, model),
        rows=rows,
        recommended=recommend(rows),
        evaluation=evaluation,
        environment=steps.environment(threads),
        command=steps.command(source, chosen, out, text, windows, imatrix, revision, repeat),
        notes=notes,
        report=str(out / "report.html"),
    )
    report.write(result.to_dict(), out)
    bar.finish()
    return result


def _nothing(_: str) -> None:
    pass
