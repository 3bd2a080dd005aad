"""A vision tower alone, as the mmproj that llama.cpp reads beside the model of the text."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from kanna import __version__, encodings, provenance
from kanna._util import locks, own_files, special_files
from kanna.conversion.base import ConvertResult, SizedPlan, WriteOptions, described
from kanna.conversion.gguf import check_written
from kanna.errors import OutputError, UsageError
from kanna.families import towers
from kanna.formats import gguf
from kanna.formats.stream import check_output
from kanna.model import MetaValue, bits_per_weight, string, u32
from kanna.plan import Resolved, Substitution, TensorPlan
from kanna.sources import Source, open_source

ENCODINGS = {"f16": 1, "f32": 0, "bf16": 32, "q8_0": 7}
"""What its matrices may be stored in, with llama.cpp's number of such a file."""
DEFAULT = "f16"


def open_tower(
    source: str | Path | Source,
    revision: str | None,
    offline: bool,
    weights: bool,
    options: WriteOptions,
) -> Source:
    """A checkpoint whose tower can be written: it is refused before its weights are fetched.

    Args:
        source: What the user named.
        revision: Branch, tag or commit of a model on the hub.
        offline: Use only what is on this machine.
        weights: Whether weights are fetched.
        options: Where fetching is reported.
    """
    return open_source(
        source,
        revision=revision,
        offline=offline,
        weights=weights,
        preflight=towers.load,
        progress=options.progress,
    )


def convert(
    source: Source,
    out: str | Path | None,
    *,
    encoding: str | None = None,
    dry_run: bool = False,
    options: WriteOptions | None = None,
) -> ConvertResult:
    """Write the vision tower of a checkpoint and its projector as one GGUF.

    Args:
        source: A checkpoint that sees.
        out: The file to write; None: only with dry_run.
        encoding: One of ENCODINGS; None: 16 bits.
        dry_run: Only describe what would be written.
        options: How it is written.

    Raises:
        UnsupportedError: It has no tower, or one that is not written here.
        SourceError: A part of it is missing, or a setting makes no sense.
    """
    started, options = time.perf_counter(), options or WriteOptions()
    if out is None and not dry_run:
        raise UsageError("no output was named", expected="a path")
    wanted = (encoding or DEFAULT).lower()
    if wanted not in ENCODINGS:
        raise UsageError(f"a vision tower in {encoding}", expected=", ".join(ENCODINGS))
    loaded = towers.load(source)
    resolved = _resolved(loaded, wanted)
    command = f"{provenance.command(source, {'encoding': wanted})} --mmproj"
    keys = _keys(source, loaded, wanted, command)
    if not dry_run:
        keys[provenance.SOURCE_HASHES] = provenance.source_hashes(source, source.hashes())
    path = special_files.target(Path(out)) if out is not None else None
    size = gguf.layout(keys, resolved.entries).total_bytes
    result = described(
        SizedPlan(resolved=resolved, file_bytes=size),
        paths=[path] if path else [],
        command=command,
        notes=[*source.notes, *loaded.model.notes],
    )
    if dry_run or path is None:
        return result
    return replace(
        _written(source, path, keys, resolved, result, options),
        seconds=time.perf_counter() - started,
    )


def _keys(
    source: Source, loaded: towers.LoadedTower, wanted: str, command: str
) -> dict[str, MetaValue]:
    """The metadata of the file, with zeros for hashes of the source."""
    return loaded.model.metadata | {
        "general.file_type": u32(ENCODINGS[wanted]),
        "kanna.version": string(__version__),
        "kanna.command": string(command),
        provenance.SOURCE_HASHES: provenance.source_hashes(source, None),
    }


def _resolved(loaded: towers.LoadedTower, wanted: str) -> Resolved:
    """What becomes of each tensor."""
    entries: list[TensorPlan] = []
    substitutions: list[Substitution] = []
    for name, tensor in loaded.model.tensors.items():
        chosen = towers.rounding(loaded.tower, tensor, wanted)
        entries.append(
            TensorPlan(name=name, tensor=tensor, encoding=encodings.get(chosen), method="nearest")
        )
        if wanted == "q8_0" and len(tensor.shape) == 2 and chosen == "f16":
            substitutions.append(
                Substitution(
                    name=name, wanted=wanted, got=chosen, reason="rows or llama.cpp need 16 bits"
                )
            )
    weights = loaded.model.num_parameters
    return Resolved(
        name=f"mmproj in {wanted}",
        entries=entries,
        substitutions=substitutions,
        nominal_bits=encodings.get(wanted).bits,
        bits=bits_per_weight(sum(e.nbytes for e in entries), weights),
    )


def _written(
    source: Source,
    path: Path,
    keys: dict[str, MetaValue],
    resolved: Resolved,
    result: ConvertResult,
    options: WriteOptions,
) -> ConvertResult:
    if path.exists() and path.is_file() and any(path.samefile(f) for f in source.weight_files):
        raise OutputError(f"{path} is the source itself", todo="choose another name")
    with locks.holding(path, "convert"):
        own_files.sweep_for(path)
        check_output([path], overwrite=options.overwrite, needed=result.file_bytes)
        written = gguf.write(
            path,
            metadata=keys,
            tensors=resolved.entries,
            threads=options.threads,
            progress=options.progress,
            overwrite=options.overwrite,
            nonfinite=options.nonfinite,
        )
        check_written(written.paths, keys, resolved)
    return replace(
        result, paths=written.paths, file_bytes=written.file_bytes, peak_bytes=written.peak_bytes
    )
