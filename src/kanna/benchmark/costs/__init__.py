"""What every encoding costs a token in the runtime of a format on this machine.

Each file beside this one that exports COSTS measures them for one format; tables are kept by
`kanna.hardware.measured_speed`, each encoding as soon as it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kanna import formats
from kanna._util import own_files, plugins
from kanna._util.atomic import write_json
from kanna._util.bars import shown
from kanna._util.nearest import absent
from kanna._util.progress import Progress
from kanna.benchmark.costs.base import Costs
from kanna.errors import OutputError, UsageError
from kanna.families import load_decoder
from kanna.hardware import measured_speed
from kanna.hardware.cpu import default_threads
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.model import Model
from kanna.sources import Source, open_source

__all__ = ["Costs", "get", "measure_encodings", "measured", "names"]


def names() -> tuple[str, ...]:
    """Names of the formats whose costs can be measured."""
    return plugins.names(__name__, "COSTS")


def get(format: str) -> Costs:
    """How costs are measured for a format.

    Raises:
        UsageError: They are not.
    """
    if format not in names():
        raise UsageError(
            f"costs of encodings are not measured for {format}",
            expected=", ".join(names()),
            todo="ask for bytes alone, without --min-speed and --objective",
        )
    costs: Costs = plugins.load(__name__, format, "COSTS")
    return costs


def measured(
    references: Sequence[str | Path],
    *,
    format: str,
    threads: int | None,
    export: str | Path | None,
    offline: bool,
    progress: Progress | None,
) -> list[EncodingSpeeds]:
    """Costs at the shapes of each source; see `kanna.bench`.

    Raises:
        UsageError: Costs of several sources should go into one file.
        OutputError: The file cannot be written.
    """
    if export is not None and len(references) != 1:
        raise UsageError(f"costs at {len(references)} shapes for one file", expected="one model")
    if export is not None and not (folder := Path(export).parent).is_dir():
        # Before minutes of measuring.
        raise OutputError(
            absent(folder), expected="a folder for the file", todo="make it, or name another file"
        )
    get(format).require()
    shown_progress = shown(progress)
    tables: list[EncodingSpeeds] = []
    for reference in references:
        source = open_source(reference, offline=offline, progress=shown_progress)
        model = load_decoder(source)
        tables.append(
            measure_encodings(source, model, format, progress=shown_progress, threads=threads)
        )
    if export is not None:
        try:
            write_json(Path(export), tables[0].to_dict())
        except OSError as error:
            raise OutputError(f"{export}: {error.strerror}", todo="name another file") from None
    return tables


def measure_encodings(
    source: Source,
    model: Model,
    format: str,
    *,
    progress: Progress,
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> EncodingSpeeds:
    """Measure what is not in the cache yet; each encoding is kept as soon as it is known.

    Args:
        source: What is converted.
        model: It, with roles.
        format: Whose runtime multiplies.
        progress: Where to report.
        names: Encodings; None: all that `optimize` looks at.
        threads: None: one per core.

    Raises:
        MissingError: The runtime is not installed.
        UnsupportedError: No matrix can have the encoding beside which others are timed.
    """
    costs, record = get(format), formats.get(format)
    costs.require()
    threads = threads or default_threads()
    table = measured_speed.cached(model, record, threads)
    with own_files.scratch() as scratch:
        bench = costs.open(source, model, threads, Path(scratch))
        wanted = [n for n in names or costs.encodings(model) if bench.fits(n)]
        missing = [n for n in wanted if table is None or n not in table.generation]
        if table is not None and not missing and table.error is not None:
            return table
        progress.start("encodings", len(missing) + 1, "encodings")
        try:
            if table is None:
                table = replace(bench.base(), backend=costs.backend())
                measured_speed.keep(table, model, record)
            progress.advance(1, bench.usual)
            for name in missing:
                if name != bench.usual:
                    table = bench.added(table, name)
                    measured_speed.keep(table, model, record)
                progress.advance(1, name)
            table = bench.finished(table)
            measured_speed.keep(table, model, record)
        finally:
            progress.finish()
    return table
