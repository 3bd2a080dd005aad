"""Convert a source: one plan, streamed, and checked when it is written.

Each file beside this one is one format.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from kanna import families, formats
from kanna._util import digest, plugins
from kanna._util.progress import Progress, Silent
from kanna.conversion.base import (
    Conversion,
    ConversionRequest,
    Converter,
    ConvertResult,
    Sizes,
    WriteOptions,
)
from kanna.conversion.guidance import Guidance, read_guidance
from kanna.errors import OutputError, UsageError
from kanna.hardware.cpu import default_threads
from kanna.model import Model
from kanna.plan import Plan
from kanna.sources import Source, open_source

__all__ = [
    "Conversion",
    "ConversionRequest",
    "ConvertResult",
    "Converter",
    "Guidance",
    "Sizes",
    "WriteOptions",
    "convert",
    "get",
    "names",
    "read_guidance",
    "sizes",
]


def names() -> tuple[str, ...]:
    """Names of the formats that can be written."""
    return plugins.names(__name__, "CONVERSION")


def get(name: str) -> Converter:
    """How sources become artefacts of a format; raises UnsupportedError naming those there are."""
    return plugins.load(__name__, name, "CONVERSION")


def sizes(format: str, source: Source, model: Model, guidance: Guidance | None = None) -> Sizes:
    """What sizes plans of `model` in a format, computed once and asked as often as needed.

    Raises:
        UsageError: The format has no plans.
        KannaError: The format cannot hold the model at all.
    """
    make = get(format).sizes
    if make is None:
        raise UsageError(f"{format} has no plans to size")
    return make(source, model, guidance or Guidance())


def convert(
    source: str | Path | Source,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    encoding: str | None = None,
    plan: str | Path | Plan | None = None,
    imatrix: str | Path | None = None,
    statistics: str | Path | None = None,
    dry_run: bool = False,
    split_max_size: int | None = None,
    format: str | None = None,
    method: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    nonfinite: str = "refuse",
    threads: int | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write `source` as one artefact, without the proof that `kanna.convert` adds when asked.

    Raises KannaError before anything is written whenever headers can tell; never leaves a partial
    file under the final name.

    Args:
        source: What is converted.
        out: File or folder to write; None: only with dry_run.
        preset: A named plan; the format has a default. One of preset, encoding and plan.
        encoding: The same for every matrix.
        plan: A plan, or a file of one.
        format: One of `names()`; None: what the preset names, as in `mlx:q4`, else `gguf`.
            `safetensors` makes a Hugging Face folder in bf16, f16 or f32.
        imatrix: llama.cpp's importance matrix.
        statistics: A folder `kanna calibrate` wrote.
        method: How values are chosen; None: `gptq` with statistics, else `search`.
        split_max_size: Bytes of a part at most.
        include, exclude: Patterns of the names of matrix products that an int8 graph of ONNX
            quantizes, or leaves float.
        nonfinite: `refuse` a source with NaN or infinity, or store `zero` in their place.
        threads: Default all cores.
        dry_run: Only say what would be written.
        overwrite: Replace what is at `out`.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    given = [
        name
        for name, value in (("preset", preset), ("encoding", encoding), ("plan", plan))
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given together", expected="one of them")
    if imatrix is not None and statistics is not None:
        raise UsageError("imatrix and statistics were given together", expected="one of them")
    if out is None and not dry_run:
        raise UsageError("no output was named", expected="a path")
    format, preset = formats.parse_preset(format, preset)
    converter = get(format)
    request = ConversionRequest(
        preset=preset,
        encoding=encoding,
        plan=plan,
        imatrix=imatrix,
        statistics=statistics,
        method=method,
        split_max_size=split_max_size,
        include=tuple(include),
        exclude=tuple(exclude),
    )
    if converter.check is not None:
        converter.check(request)
    _check_used(format, request, converter.takes)
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        weights=not dry_run,
        preflight=families.load_model,
        progress=progress,
    )
    if out is not None and not dry_run:
        _refuse_source_as_output(opened, Path(out))
    if converter.late_hashes and not dry_run:
        digest.begin(opened.decisive_files)  # beside the encoding: the file asks for them last
    conversion = converter.begin(opened, Path(out) if out is not None else None, request)
    result = conversion.describe()
    if dry_run:
        return result
    conversion.check(result, overwrite=overwrite)
    written = conversion.write(
        WriteOptions(
            threads=threads or default_threads(),
            overwrite=overwrite,
            nonfinite=nonfinite,
            progress=progress,
        )
    )
    return replace(
        result,
        paths=written.paths,
        file_bytes=written.file_bytes,
        peak_bytes=written.peak_bytes,
        notes=result.notes + written.notes,
        seconds=time.perf_counter() - started,
    )


def _check_used(format: str, request: ConversionRequest, takes: Sequence[str]) -> None:
    """UsageError for what was given and the format has no use for."""
    given = [f for f in fields(request) if getattr(request, f.name) not in (None, ())]
    for field in given:
        if field.name not in takes:
            purpose = field.metadata.get("purpose")
            raise UsageError(
                f"{_option(field.name)} has no use for {format}"
                + (f": it is for {purpose}" if purpose else ""),
                expected=", ".join(map(_option, takes)),
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_source_as_output(source: Source, out: Path) -> None:
    for path in [source.path, *source.weight_files]:
        if out.exists() and path.exists() and out.samefile(path):
            raise OutputError(f"{out} is the source itself", todo="choose another name")
