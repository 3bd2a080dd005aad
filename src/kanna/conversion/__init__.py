"""Convert a source: one plan, streamed, and checked when it is written.

Each file beside this one is one format.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path

from kanna import formats
from kanna._util import digest, extras, locks, own_files, plugins, special_files
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
from kanna.formats import stored_file
from kanna.formats.stream import WriteResult
from kanna.model import Model
from kanna.recommendation import Candidate, objection, side_bytes, source_facts
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


def require_installed(formats: Sequence[str]) -> None:
    """Raise MissingError for the first of these formats that cannot be written here."""
    for name in formats:
        converter = get(name)
        extras.require(converter.extra, f"the format {name}", converter.modules)


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
    request: ConversionRequest | None = None,
    *,
    format: str | None = None,
    dry_run: bool = False,
    options: WriteOptions | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> ConvertResult:
    """Write `source` as one artefact; `kanna.convert` spells the request out and can prove it.

    Raises KannaError before anything is written whenever headers can tell; never leaves a partial
    file under the final name.

    Args:
        source: What is converted.
        out: File or folder to write; None: only with dry_run.
        request: What is asked for; None: the default preset of the format.
        format: One of `names()`; None: what the preset names, as in `mlx:q4`, else `gguf`.
        dry_run: Only describe what would be written.
        options: How it is written; None: by all cores, and nothing is replaced.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
    """
    started = time.perf_counter()
    request, options = request or ConversionRequest(), options or WriteOptions()
    _check_request(request)
    if out is None and not dry_run:
        raise UsageError("no output was named", expected="a path")
    format, preset = formats.parse_preset(format, request.preset)
    request = replace(request, preset=preset)
    converter = get(format)
    if converter.check is not None:
        converter.check(request)
    _check_used(format, request, converter.takes)
    refuse_folder_name(out, format)
    opened = open_source(
        source,
        revision=revision,
        offline=offline,
        weights=not dry_run,
        preflight=converter.preflight,
        progress=options.progress,
    )
    path = special_files.target(Path(out)) if out is not None else None
    _refuse_source_as_output(opened, None if dry_run else path)
    if converter.late_hashes and not dry_run:
        digest.begin(opened.decisive_files)  # beside the encoding: the file asks for them last
    conversion = converter.begin(opened, path, request)
    result = _approved(conversion.describe(), options)
    if dry_run or path is None:
        return _advised(result, opened, format, planned=True)
    with _watching(opened), locks.holding(path, "convert"):
        own_files.sweep_for(path)
        conversion.check(result, overwrite=options.overwrite)
        done = _completed(result, conversion.write(options), started)
    return _advised(done, opened, format, planned=False)


def _approved(result: ConvertResult, options: WriteOptions) -> ConvertResult:
    return result if options.approve is None else options.approve(result)


def _watching(source: Source) -> AbstractContextManager[None]:
    """Whatever may end up in the artefact stays as it is until the artefact has its name."""
    return stored_file.watching([*source.weight_files, *source.files.values()])


def _advised(result: ConvertResult, source: Source, format: str, *, planned: bool) -> ConvertResult:
    """The result with what speaks against using it, which `fit` and `compare` go by too.

    Of a source with adapters merged in nothing does: what lies there is another model.
    """
    if source.merged:
        return result
    folder = not formats.get(format).suffix
    sides = side_bytes(source) if planned and folder else 0
    candidate = Candidate(
        name=result.preset,
        file_bytes=result.file_bytes + sides,
        format=format,
        bits_per_weight=result.bits_per_weight,
    )
    if advice := objection(candidate, source_facts(source, [format])):
        return replace(result, notes=[*result.notes, advice], advice=advice)
    return result


def _completed(result: ConvertResult, written: WriteResult, started: float) -> ConvertResult:
    return replace(
        result,
        paths=written.paths,
        file_bytes=written.file_bytes,
        peak_bytes=written.peak_bytes,
        notes=result.notes + written.notes,
        seconds=time.perf_counter() - started,
    )


def _check_request(request: ConversionRequest) -> None:
    """Raise UsageError for fields of a request that exclude or need each other."""
    plans = [name for name in ("preset", "encoding", "plan") if getattr(request, name) is not None]
    if len(plans) > 1:
        raise UsageError(f"{' and '.join(plans)} were given together", expected="one of them")
    if request.imatrix is not None and request.statistics is not None:
        raise UsageError("imatrix and statistics were given together", expected="one of them")
    if request.device is not None and request.statistics is None:
        raise UsageError(
            "--device is where gptq runs, which needs statistics",
            expected="--statistics FOLDER",
            todo="leave --device out: everything else runs on the CPU",
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


def refuse_folder_name(out: str | Path | None, format: str) -> None:
    """Raise OutputError for an output that ends as a folder does, in a format of files.

    Args:
        out: The output as it was named; None: nothing is written.
        format: What is written.
    """
    suffix = formats.get(format).suffix
    if suffix and isinstance(out, str) and out.endswith(tuple({"/", os.sep})):
        raise OutputError(
            f"{out} is the name of a folder",
            expected="the name of a file",
            todo=f"-o {out}model{suffix}",
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_source_as_output(source: Source, out: Path | None) -> None:
    if out is None:
        return
    for path in [source.path, *source.weight_files]:
        if out.exists() and path.exists() and out.samefile(path):
            raise OutputError(f"{out} is the source itself", todo="choose another name")
