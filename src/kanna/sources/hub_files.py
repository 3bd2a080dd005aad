"""Which files of a hub repository a reference means, and how they come here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np

from kanna._util.progress import Progress
from kanna.errors import FormatError, SourceError
from kanna.formats.gguf.keys import check_sizes
from kanna.formats.gguf.read import SHARD, GGUFFile, read_header
from kanna.formats.safetensors.shards import INDEX
from kanna.sources import blobs, hub
from kanna.sources.hub import Repository
from kanna.sources.references import Reference

_SHOWN = 8
# A header with a large vocabulary takes some ten megabytes.
_HEADER_BYTES = (1 << 20, 1 << 23, 1 << 26)
_ONNX_MARKS = ("genai_config.json", "model.onnx")


def is_checkpoint(names: Sequence[str]) -> bool:
    """Whether a repository holds what a Hugging Face model is loaded from, at its top."""
    return "config.json" in names and any(
        "/" not in n and n.endswith(".safetensors") for n in names
    )


def local(reference: Reference, *, offline: bool, progress: Progress | None) -> Path:
    """The file or folder of a hub reference on this machine, fetched where it is not here yet.

    Raises:
        SourceError: It cannot be fetched, or the repository has no such file.
    """
    repository = None if offline else look_up(reference)
    if repository is not None:
        return fetch(repository, reference, progress)
    folder = hub.cached(reference.name, reference.revision)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    inside, parts = meant(reference, names)
    blobs.check([folder / part for part in parts] or [folder], progress)
    return folder / inside


def fetch(repository: Repository, reference: Reference, progress: Progress | None) -> Path:
    """Fetch what a reference means of a repository, and return its path."""
    inside, names = meant(reference, list(repository.files))
    paths = hub.fetch(repository, names or _checkpoint_files(repository), progress)
    hub.remember(repository)
    first = next(iter(paths))
    folder = paths[first].parents[len(PurePosixPath(first).parts) - 1]
    return folder / inside


def look_up(reference: Reference) -> Repository | None:
    """What the hub has; None where it cannot be reached and the cache has the repository.

    Raises:
        SourceError: Neither the hub nor the cache has it.
    """
    try:
        return hub.look_up(reference.name, reference.revision)
    except SourceError as error:
        if not hub.is_unreachable(error):
            raise
        try:
            hub.cached(reference.name, reference.revision)
        except SourceError:
            raise error from None
        hub.log.warning("%s: the copy in the cache is used", error.found)
        return None


def meant(reference: Reference, names: Sequence[str]) -> tuple[str, list[str]]:
    """The path inside a repository that a reference means, and the files that make it up.

    No files stand for a checkpoint, whose weights and side files are known otherwise; the path is
    then the folder itself.

    Raises:
        SourceError: There is no such file, or there are several.
    """
    ggufs = _first_parts(names)
    if reference.file:
        return _named(reference, names, ggufs)
    if is_checkpoint(names):
        return "", []
    if any(mark in names for mark in _ONNX_MARKS):
        return "", [n for n in names if "/" not in n and not n.endswith(hub.PICKLED)]
    if len(ggufs) == 1:
        return ggufs[0], _parts(ggufs[0], names)
    if ggufs:
        raise SourceError(
            f"{reference.name} has {len(ggufs)} GGUF files",
            expected="one of them: " + _list([f"{reference.name}:{name}" for name in ggufs]),
        )
    folders = sorted({str(PurePosixPath(n).parent) for n in names if n.endswith(_ONNX_MARKS)})
    if folders:
        raise SourceError(
            f"{reference.name} has its models in folders",
            expected="one of them: " + _list([f"{reference.name}:{name}" for name in folders]),
        )
    return "", []  # what it lacks is told by what reads a checkpoint


def _named(
    reference: Reference, names: Sequence[str], ggufs: Sequence[str]
) -> tuple[str, list[str]]:
    """What the part after the colon means: a file, a folder, or a precision such as Q4_K_M."""
    wanted = str(reference.file).strip("/")
    if wanted in names:
        if wanted.endswith(".gguf"):
            return wanted, _parts(wanted, names)
        if wanted.endswith((".safetensors", ".json")):
            raise SourceError(
                f"{reference.given} is one file of a model",
                todo=f"give the whole model: {reference.name}",
            )
        if wanted.endswith(hub.PICKLED):
            raise hub.pickled(f"{reference.name}:{wanted}")
        return str(PurePosixPath(wanted).parent), [
            n for n in names if PurePosixPath(n).parent == PurePosixPath(wanted).parent
        ]
    below = [n for n in names if n.startswith(f"{wanted}/")]
    if below:
        inside = [n for n in below if n.endswith(".gguf")]
        if first := _first_parts(inside):
            if len(first) == 1:
                return first[0], _parts(first[0], names)
            raise SourceError(
                f"{reference.given} is a folder of {len(first)} GGUF files",
                expected="one of them: " + _list([f"{reference.name}:{n}" for n in first]),
            )
        return wanted, [n for n in below if not n.endswith(hub.PICKLED)]
    tagged = [n for n in ggufs if _has_tag(n, wanted)]
    if len(tagged) == 1:
        return tagged[0], _parts(tagged[0], names)
    having = tagged or ggufs or [n for n in names if n.endswith((".safetensors", ".onnx"))]
    raise SourceError(
        f"{reference.name} has "
        + (f"{len(tagged)} files of {wanted}" if tagged else f"no file {wanted!r}"),
        expected="one of them: " + _list([f"{reference.name}:{name}" for name in having]),
    )


def gguf_models(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The whole GGUF models among files: the first part of each, and all its parts."""
    models: list[tuple[str, list[str]]] = []
    for name in _first_parts(names):
        with suppress(SourceError):  # a part is missing
            models.append((name, _parts(name, names)))
    return models


def _has_tag(name: str, tag: str) -> bool:
    """Whether a GGUF is named for a precision: `model-Q4_K_M.gguf` for `q4_k_m`."""
    stem = PurePosixPath(name).stem.lower()
    if shard := SHARD.fullmatch(PurePosixPath(name).name):
        stem = shard[1].lower()
    return stem == tag.lower() or stem.endswith((f"-{tag.lower()}", f".{tag.lower()}"))


def _first_parts(names: Sequence[str]) -> list[str]:
    """The GGUF models among files: one that is split counts once; projectors are none."""
    models: list[str] = []
    for name in names:
        leaf = PurePosixPath(name).name
        shard = SHARD.fullmatch(leaf)
        if (
            leaf.endswith(".gguf")
            and not leaf.startswith("mmproj")
            and (shard is None or int(shard[2]) == 1)
        ):
            models.append(name)
    return models


def _parts(name: str, names: Sequence[str]) -> list[str]:
    """All files of a GGUF, its first part first."""
    leaf = PurePosixPath(name)
    shard = SHARD.fullmatch(leaf.name)
    if shard is None:
        return [name]
    parts = [
        str(leaf.with_name(f"{shard[1]}-{number:05}-of-{shard[3]}.gguf"))
        for number in range(1, int(shard[3]) + 1)
    ]
    if absent := [part for part in parts if part not in names]:
        raise SourceError(f"{absent[0]}, a part of {name}, is not in the repository")
    return parts


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _checkpoint_files(repository: Repository) -> list[str]:
    """Side files and weights, the index of shards before them."""
    weights = repository.weight_files
    index = [INDEX] if INDEX in repository.files else []
    return [*repository.side_files, *index, *[n for n in weights if n != INDEX]]


def gguf_header(repository: Repository, names: Sequence[str]) -> GGUFFile:
    """What the headers of a GGUF on the hub say, all its parts together; no weight is fetched."""
    first, *others = [_header(repository, name) for name in names]
    for other in others:
        first.tensors.update(other.tensors)
        first.paths += other.paths
    first.metadata = {k: v for k, v in first.metadata.items() if not k.startswith("split.")}
    first.num_remote_bytes = sum(repository.files[name] for name in names)
    check_sizes(first.metadata, first.tensors)
    return first


def _header(repository: Repository, name: str) -> GGUFFile:
    size, path = repository.files[name], Path(PurePosixPath(name).name)
    data, problem = b"", FormatError("the file is empty")
    for wanted in _HEADER_BYTES:
        data += hub.read_range(repository, name, len(data), min(wanted, size) - len(data))
        try:
            return read_header(path, np.frombuffer(data, np.uint8), size)
        except FormatError as error:
            problem = error
            if len(data) >= size:
                break
    raise FormatError(
        f"{repository.id}:{name}: {problem.found}", expected=problem.expected, todo=problem.todo
    )
