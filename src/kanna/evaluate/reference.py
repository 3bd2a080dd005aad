"""The reference: the source in float32, as a GGUF for the same runtime, made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from kanna import fetch
from kanna.formats import gguf
from kanna.progress import Progress
from kanna.sources import Source, open_source

# References are four bytes per weight: only the most recently used ones are kept.
_KEEP = 4


def reference_gguf(
    source: str | Path | Source, *, revision: str | None = None, offline: bool = False, progress: Progress | None = None
) -> Path:
    """Path of a GGUF with every weight of `source` in float32.

    A GGUF in float32 or float16 is used as it is; anything else is written to the cache folder, keyed by the hashes
    of the source, and used again. Multiplying in float16 costs a KL of about 4e-6 in llama.cpp, in bfloat16 2e-4:
    too much for a reference. Raises what `open_source` and `convert` raise.
    """
    path = source.path if isinstance(source, Source) else Path(source)
    if path.suffix == ".gguf" and path.is_file() and _is_exact(path):
        return path
    from kanna import __version__

    found = open_source(source, revision=revision, offline=offline, progress=progress)
    key = hashlib.sha256(json.dumps([__version__, found.hashes()], sort_keys=True, default=str).encode()).hexdigest()
    folder = fetch.cache_dir() / "references"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{Path(found.name).name or 'model'}-{key[:16]}.f32.gguf"
    if final.is_file():
        with suppress(OSError):
            os.utime(final)
        return final
    from kanna.convert import convert

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "reference.gguf"
        convert(found, made, encoding="f32", progress=progress)
        made.replace(final)
    _prune(folder, final)
    return final


def _is_exact(path: Path) -> bool:
    return all(t.dtype in {"f32", "f16"} for t in gguf.read(path).tensors.values() if len(t.shape) > 1)


def _prune(folder: Path, keep: Path) -> None:
    others = sorted((p for p in folder.glob("*.gguf") if p != keep), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[_KEEP - 1 :]:
        with suppress(OSError):
            old.unlink()
