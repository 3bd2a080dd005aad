"""Adapters: small changes that were trained beside a model, read as PEFT and mlx-lm save them.

open_adapter(folder) → LoraAdapter    merged_source(source, adapters) → a source with them merged in
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kanna._util import plugins
from kanna._util.nearest import absent
from kanna.adapters.base import DRAFT_HEAD, AdapterLayout, LoraAdapter, LowRank
from kanna.adapters.choice import AdapterWeights, weights
from kanna.adapters.merged_folder import merged_folder
from kanna.adapters.merged_gguf import merged_gguf
from kanna.errors import FormatError, NotFoundError, SourceError, UnsupportedError
from kanna.formats import folder_files, gguf, safetensors
from kanna.sources import Source, hub, locate
from kanna.sources import adapter as names

__all__ = [
    "DRAFT_HEAD",
    "LoraAdapter",
    "AdapterWeights",
    "AdapterLayout",
    "LowRank",
    "merged_source",
    "open_adapter",
    "open_adapters",
    "weights",
]


_FOLDER = "a folder with adapter_config.json and its weights"


def layouts() -> list[AdapterLayout]:
    """The layouts that are known, by their file names."""
    return [plugins.load(__name__, name, "LAYOUT") for name in plugins.names(__name__, "LAYOUT")]


def open_adapter(given: str | Path, *, offline: bool = False) -> LoraAdapter:
    """Open an adapter; nothing but headers is read.

    Args:
        given: Its folder, or a hub id.
        offline: Use only what is on this machine.

    Raises:
        SourceError: It is none, or something of it cannot be taken exactly; says what to do.
    """
    path = locate(given, offline=offline)
    if path.is_file() and path.name in {*names.WEIGHTS, *(one.weights for one in layouts())}:
        raise SourceError(f"{given} is one file of an adapter", todo=f"give {path.parent}")
    if not path.exists():
        raise NotFoundError(f"the adapter {absent(given)}", expected=_FOLDER, todo="check the path")
    if not path.is_dir():
        raise SourceError(
            f"the adapter {given} is a file",
            expected=_FOLDER,
            todo="an adapter in GGUF is applied as it is: kanna generate model.gguf --adapter FILE",
        )
    files = folder_files.files(path)
    for layout in layouts():
        if layout.recognizes(files):
            if layout.weights not in files:
                raise hub.pickled(next(n for n in names.WEIGHTS if n in files))
            try:
                return _read(layout, str(given), path, files)
            except FormatError as error:
                named = str(given) in error.found
                raise FormatError(
                    error.found if named else f"the adapter {given}: {error.found}",
                    expected=error.expected,
                    todo=error.todo,
                ) from error
    if names.CONFIG in files:
        raise SourceError(
            f"{given} has {names.CONFIG} and no weights",
            expected=" or ".join(sorted(one.weights for one in layouts())),
            todo="fetch or save the adapter again",
        )
    inside = [p.parent.name for p in path.glob(f"*/{names.CONFIG}")]
    inside.sort(key=lambda name: (len(name), name))  # checkpoint-100 after checkpoint-20
    raise UnsupportedError(
        f"{given} is no adapter" + (f": it has {', '.join(inside)} inside" if inside else ""),
        expected=f"a folder with {names.CONFIG}, as PEFT and mlx-lm save it",
        todo=f"give {path / inside[-1]}" if inside else "give the adapter after its base model",
    )


def _read(layout: AdapterLayout, given: str, path: Path, files: Mapping[str, Path]) -> LoraAdapter:
    adapter = layout.read(given, path, files)
    if DRAFT_HEAD in files:
        adapter.draft_head = dict(safetensors.read_file(files[DRAFT_HEAD]))
        adapter.weight_files.append(files[DRAFT_HEAD])
    return adapter


def open_adapters(
    given: AdapterWeights, *, offline: bool = False
) -> list[tuple[LoraAdapter, float]]:
    """Every adapter that is named, with its weight; raises as `open_adapter` does."""
    return [(open_adapter(one, offline=offline), weight) for one, weight in weights(given)]


def merged_source(source: Source, adapters: list[tuple[LoraAdapter, float]]) -> Source:
    """The source with adapters merged in: its tensors are computed when they are read.

    Args:
        source: The base model, a folder or a GGUF; the latter takes plain LoRA of matrices.
        adapters: Adapters with their weights; 1 is as trained.

    Raises:
        UnsupportedError: The base is no language model, or a GGUF that has no place for it.
        SourceError: An adapter does not fit it.
    """
    merge = merged_gguf if source.kind == gguf.FORMAT.name else merged_folder
    return merge(source, adapters)
