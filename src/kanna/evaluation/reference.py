"""The reference: the source in float32, made once and cached.

For GGUFs it is a GGUF in the same build of llama.cpp, so that nothing but the weights differs.
Artefacts of several runtimes share one reference: transformers in float32, or llama.cpp where that
is not installed (the two differ by a KL of about 2e-7, since llama.cpp keeps keys and values in
float16).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kanna import runtimes
from kanna._util import own_files, verified
from kanna._util.disk import newest_first
from kanna._util.progress import Progress, Silent
from kanna.conversion import ConversionRequest, WriteOptions, convert
from kanna.formats import gguf
from kanna.runtimes.base import Engine, Runtime
from kanna.sources import Source, open_source, packages

# References are four bytes per weight: only the most recently used ones stay.
_MAX_CACHED = 4
_IN_USE = 3600.0
"""Seconds since it was asked for in which another process may be at work with a reference."""


def reference_gguf(
    source: str | Path | Source,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Path of a GGUF with every weight of `source` in float32.

    A GGUF in float32 or float16 is used as it is; anything else is written to the cache folder,
    keyed by the hashes of the source, and used again. Multiplying in float16 costs a KL of about
    4e-6 in llama.cpp, in bfloat16 2e-4: too much for a reference. Raises what `open_source` and
    `convert` raise.
    """
    if _serves_itself(source):
        return source.path if isinstance(source, Source) else Path(source)
    opened = open_source(source, revision=revision, offline=offline, progress=progress)
    return _cached(opened, gguf.FORMAT.suffix, gguf.FORMAT.name, progress)


def _serves_itself(source: str | Path | Source) -> bool:
    """Whether a source is a GGUF that is its own reference in llama.cpp."""
    path = source.path if isinstance(source, Source) else Path(source)
    whole = not (isinstance(source, Source) and source.merged)
    return whole and path.suffix == ".gguf" and path.is_file() and _is_exact(path)


def is_there(source: Source, used: Sequence[str], *, hashed: bool = True) -> bool:
    """Whether nothing has to be written to compare artefacts of these runtimes with a source.

    Args:
        source: What the artefacts will be made of.
        used: Names of their runtimes.
        hashed: Whether a reference from before counts, for which the source is read; otherwise only
            a source that is its own.
    """
    folder = _judge(used).is_reference
    if _is_plain(source) if folder else _serves_itself(source):
        return True
    return hashed and _place(source, "" if folder else gguf.FORMAT.suffix).exists()


def reference_folder(
    source: str | Path | Source,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """A Hugging Face folder with every weight of `source` exactly, for transformers.

    A folder in a floating type is used as it is; positions of BERT are whole numbers. What was
    packed is decoded here: transformers needs libraries and devices of their own for it. Raises
    what `open_source` and `convert` raise.
    """
    opened = open_source(source, revision=revision, offline=offline, progress=progress)
    if _is_plain(opened):
        return opened.path
    return _cached(opened, "", "safetensors", progress)


def open_reference(
    source: str | Path | Source,
    artefacts: Sequence[Path],
    *,
    context: int,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> tuple[Engine, str]:
    """The one engine that `artefacts` are compared with, and its description.

    Raises MissingError without any.
    """
    source = open_source(source, revision=revision, offline=offline, progress=progress)
    runtime = _judge([runtimes.of(p).name for p in artefacts])
    path = _made_for(runtime, source, progress)
    engine = runtime.open(path, context=context, threads=threads)
    return engine, f"the source in float32 in {runtime.title}"


def reference_for(
    source: Source, used: Sequence[str], *, progress: Progress | None = None
) -> Path | None:
    """What artefacts of these runtimes will be compared with; None where nothing here runs it.

    Args:
        source: What the artefacts will be made of.
        used: Names of their runtimes.
        progress: Where progress is reported.
    """
    runtime = _judge(used)
    return _made_for(runtime, source, progress) if runtime.available().ok else None


def _judge(used: Sequence[str]) -> Runtime:
    """The runtime of the reference: llama.cpp for its own artefacts alone, or without torch."""
    llama, torch = runtimes.get("llamacpp"), runtimes.get("torch")
    return llama if set(used) <= {llama.name} or not torch.available().ok else torch


def _made_for(runtime: Runtime, source: Source, progress: Progress | None) -> Path:
    make = reference_folder if runtime.is_reference else reference_gguf
    return make(source, progress=progress)


def require_runtime(artefact: Path) -> None:
    """Raise MissingError where the runtime that `open_for_scoring` takes is not here."""
    runtime = runtimes.of(artefact)
    if not _is_replaced(runtime) and not runtime.available().ok:
        runtime.load()


def _is_replaced(runtime: Runtime) -> bool:
    """Whether artefacts are scored by their values in another runtime."""
    return runtime.slow_on_cpu and sys.platform != "darwin"


def open_for_scoring(
    artefact: Path, *, context: int, threads: int | None = None, progress: Progress | None = None
) -> tuple[Engine, str]:
    """The engine that gives the logits an artefact is scored by, and a note if it is not its own.

    A runtime that is slow on a CPU (mlx reads a prompt at a few tokens a second) is replaced there:
    the artefact is scored by the values it holds, decoded into float32, in the runtime of the
    reference. `kanna verify` compares its own runtime with them on a short prompt.
    """
    runtime = runtimes.of(artefact)
    if not _is_replaced(runtime):
        return runtime.open(artefact, context=context, threads=threads), ""
    llama, torch = runtimes.get("llamacpp"), runtimes.get("torch")
    if torch.available().ok:
        path, engine = reference_folder(artefact, progress=progress), torch
    else:
        path, engine = reference_gguf(artefact, progress=progress), llama
    note = (
        f"judged by its values, decoded, in {engine.name}, "
        f"since {runtime.name} is slow on this CPU: {artefact.name}"
    )
    return engine.open(path, context=context, threads=threads), note


def _cached(source: Source, ending: str, format: str, progress: Progress | None) -> Path:
    """Path of the source in float32 in the cache folder, keyed by its hashes."""
    final = _place(source, ending)
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    if final.exists():
        if verified.unchanged(final):
            verified.touch(final)
            return final
        _remove(final)  # another program's, or changed since
    with own_files.scratch(folder) as scratch:
        partial = scratch / f"reference{ending}"
        options = WriteOptions(progress=progress or Silent())
        convert(source, partial, ConversionRequest(encoding="f32"), format=format, options=options)
        if final.exists() and verified.unchanged(final):
            return final  # made by another process meanwhile, of the same bytes
        verified.record(partial, final)
        partial.replace(final)
    _prune(folder, final)
    return final


def _is_plain(source: Source) -> bool:
    """Whether transformers reads the values of a source, and its tokenizer, as they are."""
    plain = (
        source.kind == "hf"
        and not (source.merged or source.packed)
        and all(t.dtype in {"f32", "f16", "bf16", "i64"} for t in source.tensors.values())
    )
    # A tokenizer of another kind is converted together with the weights.
    return plain and "tokenizer.json" in source.files and bool(source.weight_files)


def _place(source: Source, ending: str) -> Path:
    """Where the reference of a source is kept."""
    from kanna import __version__

    key = hashlib.sha256(
        json.dumps(
            # Weights of adapters are in no file.
            [__version__, source.hashes(), *([source.merged] if source.merged else [])],
            sort_keys=True,
            default=str,
        ).encode()
    ).hexdigest()
    name = f"{Path(source.name).name or 'model'}-{key[:16]}.f32{ending}"
    return packages.cache_dir() / "references" / name


def _is_exact(path: Path) -> bool:
    return all(
        t.dtype in {"f32", "f16"} for t in gguf.read(path).tensors.values() if len(t.shape) > 1
    )


def _prune(folder: Path, keep: Path) -> None:
    """Remove all but the last few, but for those that another process may be at work with."""
    others = newest_first(p for p in folder.glob("*.f32*") if p != keep)
    for old in others[_MAX_CACHED - 1 :]:
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _IN_USE:
                _remove(old)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
