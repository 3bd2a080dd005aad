"""Convert a source: one plan, streamed, and checked when it is written.

Each file beside this one is one format.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from kanna import families
from kanna._util import digest, plugins
from kanna._util.progress import Progress, Silent
from kanna.conversion.base import ConvertResult, Request, Running, Work
from kanna.errors import OutputError, UsageError
from kanna.formats.onnx.encoder import is_encoder
from kanna.hardware.cpu import default_threads
from kanna.plan import Plan
from kanna.sources import Source, open_source

__all__ = ["ConvertResult", "convert", "format_of", "formats"]


def formats() -> tuple[str, ...]:
    """Names of the formats that can be written."""
    return plugins.names(__name__, "WORK")


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
        format: One of `formats()`; None: what the preset names, as in `mlx:q4`, else `gguf`.
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
    bar = progress or Silent()
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
    format, preset = format_of(format, preset)
    if include or exclude:
        _check_patterns(format, preset, [*include, *exclude])
    kind: Any = plugins.load(__name__, format, "WORK")
    request = Request(
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
    _check_used(format, request, kind.takes)
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        weights=not dry_run,
        preflight=families.load_model,
        progress=bar,
    )
    if out is not None and not dry_run:
        _refuse_source_as_output(opened, Path(out))
    if kind.late_hashes and not dry_run:
        digest.begin(opened.decisive_files)  # beside the encoding: the file asks for them last
    if format == "onnx" and is_encoder(opened.config):
        from kanna.conversion.encoder import ToEncoder

        kind, model = ToEncoder, None
    else:
        model = families.load_model(opened)
    work: Work = kind(opened, model, Path(out) if out is not None else None, request)
    result = work.describe()
    if dry_run:
        return result
    work.check(result, overwrite=overwrite)
    written = work.write(
        Running(
            threads=threads or default_threads(),
            overwrite=overwrite,
            nonfinite=nonfinite,
            progress=bar,
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


def format_of(format: str | None, preset: str | None) -> tuple[str, str | None]:
    """The format and the preset's name in it: `mlx:q4` is q4 of mlx.

    Raises UsageError for a contradiction.
    """
    prefix, colon, rest = (preset or "").partition(":")
    if not colon:
        return format or "gguf", preset
    if format is not None and format != prefix:
        raise UsageError(
            f"the preset {preset} is not one of {format}", expected=f"--format {prefix}"
        )
    return prefix, rest


def _check_used(format: str, request: Request, takes: Sequence[str]) -> None:
    """UsageError for what was given and the format has no use for."""
    given = [f.name for f in fields(request) if getattr(request, f.name) not in (None, ())]
    if unused := [name for name in given if name not in takes]:
        options = [f"--{name.replace('_', '-')}" for name in (unused[0], *takes)]
        raise UsageError(f"{options[0]} has no use for {format}", expected=", ".join(options[1:]))


def _check_patterns(format: str, preset: str | None, patterns: Sequence[str]) -> None:
    """UsageError unless the preset is an int8 graph and every pattern is a regular expression."""
    from kanna.plan.onnx_derived import PRESETS

    if format != "onnx" or preset not in PRESETS or not PRESETS[preset].int8:
        able = ", ".join(f"onnx:{name}" for name, kind in PRESETS.items() if kind.int8)
        raise UsageError(
            "--include and --exclude choose the products of an int8 graph",
            expected=f"--preset {able}",
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{pattern!r} is no pattern: {error}", expected="a regular expression"
            ) from None


def _refuse_source_as_output(source: Source, out: Path) -> None:
    for path in [source.path, *source.weight_files]:
        if out.exists() and path.exists() and out.samefile(path):
            raise OutputError(f"{out} is the source itself", todo="choose another name")
