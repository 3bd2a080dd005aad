"""Open what the user gives: `references.py` says how a model can be named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kanna import formats, oci
from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna._util.typed import TypedObject
from kanna.errors import FormatError, SourceError
from kanna.formats import folder_files, gguf, mlx, prequantized, safetensors
from kanna.formats.base import FolderContents
from kanna.formats.gguf import GGUFFile
from kanna.formats.text_files import (
    parse_json,
    read_json,
    read_text,
    refuse_stand_in_file,
    repeated_keys,
)
from kanna.model import Tensor
from kanna.sources import (
    adapter,
    blobs,
    hub,
    hub_files,
    no_model,
    ollama,
    packages,
    packed,
    references,
)
from kanna.sources import sentence_modules as steps
from kanna.sources.references import Reference

# Side files that decide what an artefact holds.
_DECISIVE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
_READ = (*_DECISIVE, "vocab.json", "merges.txt", "vocab.txt")
"""Side files that may be pointers of git-lfs."""
BUILTIN = {
    "stories15m": packages.stories15m_wide,
    "smollm2-135m": packages.smollm2_gguf,
    "gemma3-270m": packages.gemma3_270m_gguf,
    "minilm-l6-v2": packages.minilm,
}


@dataclass(slots=True, kw_only=True)
class Source:
    """What the user gave, with nothing read but headers.

    Attributes:
        kind: `hf` (tensors under Hugging Face names) or `gguf` (under GGUF names).
        path: Folder or file.
        tensors: By name, lazy; of a hub id before its weights are fetched, headers only.
        config: Config.json ({} for a GGUF).
        files: Side files by name, such as tokenizer.json.
        given: The source as the user wrote it.
        notes: What the user must know of the files that were read, and those that were not.
        merged: Adapters that are merged into its tensors, which `path` does not have.
        packed: Whether `path` has packed weights, of which the tensors are the values.
    """

    kind: str
    path: Path
    name: str
    given: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    gguf: GGUFFile | None = None
    revision: str | None = None
    weight_files: list[Path] = field(default_factory=list[Path])
    notes: list[str] = field(default_factory=list[str])
    merged: tuple[str, ...] = ()
    packed: bool = False

    @property
    def decisive_files(self) -> list[Path]:
        """Files that decide what an artefact holds: weights, config, tokenizer, templates."""
        return self.weight_files + [self.files[n] for n in _DECISIVE if n in self.files]

    @property
    def decisive_names(self) -> dict[str, Path]:
        """Those files by name, with their folder where a name is there before."""
        names: dict[str, Path] = {}
        for path in self.decisive_files:
            names[f"{path.parent.name}/{path.name}" if path.name in names else path.name] = path
        return names

    @property
    def has_weights(self) -> bool:
        """Whether its weights are on this machine."""
        return bool(self.weight_files) and all(p.is_file() for p in self.weight_files)

    def hashes(self, progress: Progress | None = None) -> dict[str, str]:
        """SHA-256 of every decisive file, by `decisive_names`, and of weights of adapters not 1."""
        digests = adapter.weights_digest(self.merged)
        if progress:
            progress.start("hash the source", sum(p.stat().st_size for p in self.decisive_files))
        for name, path in self.decisive_names.items():
            digests[name] = sha256(
                path, partial(progress.advance, detail=path.name) if progress else None
            )
        if progress:
            progress.finish()
        return digests

    def text(self, name: str) -> str | None:
        """Text of a side file, or None."""
        path = self.files.get(name)
        return None if path is None else read_text(path)

    def json(self, name: str) -> Any:
        """Parsed side file, or None; FormatError when it is not JSON."""
        path = self.files.get(name)
        return None if path is None else read_json(path)


def open_source(
    src: str | Path | Source,
    *,
    revision: str | None = None,
    offline: bool = False,
    weights: bool = True,
    preflight: Callable[[Source], object] | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open a source.

    Args:
        src: What the user named, or a source that is open.
        revision: Branch, tag or commit of a hub id.
        offline: Use only what is on this machine already.
        weights: False leaves the weights of a hub id where they are (headers suffice for `inspect`
            and `fit`).
        preflight: Called with the headers of a hub id before any weight is fetched; it raises to
            refuse.
        progress: Where fetching is reported.

    Raises:
        SourceError: It cannot be used (FormatError, RefusedError, …); the message says what to do.
    """
    if isinstance(src, Source):
        return src
    reference = references.parse(src, revision)
    if reference.kind == "hub":
        return _hub(reference, offline, weights, preflight, progress)
    path = formats.check_inside(_here(reference, progress))
    blobs.check([path], progress)
    if path.is_dir():
        return _folder(path, reference.given)
    if path.exists():
        return _file(path, reference.given)
    raise no_model.absent_source(reference.given, BUILTIN)


def locate(
    given: str | Path,
    *,
    revision: str | None = None,
    offline: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Where a model or an artefact lies on this machine, fetched where it is not here yet.

    A path is returned as it is, whether something is there or not.

    Args:
        given: What the user named.
        revision: Branch, tag or commit of a hub id.
        offline: Use only what is on this machine already.
        check: Refuse a folder of which something lies outside, as `formats.check_inside` does.
        progress: Where fetching is reported.

    Raises:
        SourceError: There is no such model, or it cannot be fetched.
    """
    reference = references.parse(given, revision)
    if reference.kind == "hub":
        path = hub_files.local(reference, offline=offline, progress=progress)
    else:
        path = _here(reference, progress)
        blobs.check([path], progress)
    return formats.check_inside(path) if check else path


def _here(reference: Reference, progress: Progress | None) -> Path:
    """The path of anything but a hub id."""
    if reference.kind == "builtin":
        return _builtin(reference.name, progress)
    if reference.kind == "ollama":
        return ollama.path(reference.name)
    if reference.kind == "oci":
        return oci.path(reference.name)
    return Path(reference.name)


def _builtin(name: str, progress: Progress | None) -> Path:
    if name not in BUILTIN:
        raise SourceError(
            f"no embedded model {name!r}", expected=", ".join(f"builtin:{n}" for n in BUILTIN)
        )
    return BUILTIN[name](progress)


def _file(path: Path, given: str) -> Source:
    if path.suffix.lower() in hub.PICKLED:
        raise hub.pickled(path.name)
    if path.suffix.lower() == ".safetensors":
        raise SourceError(f"{path} is one file of a model", todo=f"give its folder: {path.parent}")
    file = gguf.read(path)
    blobs.check(file.paths[1:])
    adapter.refuse_gguf(file.value("general.type"), path.name)
    name = str(file.value("general.name") or path.stem)
    return Source(
        kind="gguf",
        path=path,
        name=name,
        given=given,
        tensors=file.tensors,
        gguf=file,
        weight_files=file.paths,
    )


def _folder(path: Path, given: str, name: str | None = None, revision: str | None = None) -> Source:
    files = steps.with_steps(path, folder_files.files(path))
    adapter.refuse(files, given)
    if "config.json" not in files:
        raise no_model.error(path, files)
    weights = [p for n, p in files.items() if n.endswith(".safetensors")]
    contents = _contents(path) if not weights else None
    if contents is None and not weights and safetensors.INDEX not in files:
        pickled = [n for n in files if n.endswith(hub.PICKLED)]
        if pickled:
            raise no_model.pickled(path, pickled[0])
        raise SourceError(
            f"{path} has no weights", expected="model.safetensors or its shards", todo="fetch them"
        )
    for side in _READ:
        if side in files:
            refuse_stand_in_file(files[side])
    config, notes = _config(files["config.json"])
    notes += adapter.beside_model(files)
    losses: list[str] = []
    if contents is not None:
        tensors, weights = dict(contents.tensors), list(contents.weight_files)
    else:
        chosen = safetensors.weight_files(path)
        notes += chosen.notes
        weights = [path / n for n in sorted(chosen.names)]
        config = packed.with_settings(config, files)
        tensors, config, losses = packed.unpacked(
            safetensors.read_folder(path, chosen), config, of_mlx=mlx.is_folder(path)
        )
        tensors |= steps.tensors(files)
    return Source(
        kind="hf",
        path=path,
        name=name or path.absolute().name,
        given=given,
        tensors=tensors,
        config=config,
        files={n: p for n, p in files.items() if not n.endswith(".safetensors")},
        revision=revision,
        weight_files=weights,
        notes=[*notes, *losses],
        packed=bool(losses),
    )


def _config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """config.json, and what its user must know of it."""
    text = read_text(path)
    config = parse_json(text, path.name)
    if not isinstance(config, dict):
        raise FormatError(
            f"{path.name} is not an object", expected='{"architectures": …}', todo="fetch it again"
        )
    TypedObject.of(config, path.name).part("text_config")
    notes = [
        f"{path.name} has {name!r} more than once with different values: the last one counts"
        for name in repeated_keys(text)
    ]
    return config, notes


def _contents(path: Path) -> FolderContents | None:
    """What the format of an artefact reads back; None for any other folder."""
    format = formats.recognize(path)
    return format.contents(path) if format is not None and format.contents is not None else None


def _hub(
    reference: Reference,
    offline: bool,
    weights: bool,
    preflight: Callable[[Source], object] | None,
    progress: Progress | None,
) -> Source:
    repository = None if offline else hub_files.look_up(reference)
    if repository is None:
        path = hub_files.local(reference, offline=True, progress=progress)
        folder = hub.cached(reference.name, reference.revision)
        # A snapshot is named by its commit.
        return _fetched(reference, path, folder.name)
    inside, names = hub_files.meant(reference, list(repository.files))
    if names and inside.endswith(".gguf"):
        headers = _gguf_headers(reference, repository, names)
    elif names:  # a folder of the repository: small beside what reads it
        headers, weights, preflight = None, True, None
    else:
        headers = _checkpoint_headers(reference, repository)
    if preflight and headers:
        preflight(headers)
    if headers and not weights:
        return headers
    path = hub_files.fetch(repository, reference, progress)
    return _fetched(reference, path, repository.commit)


def _fetched(reference: Reference, path: Path, commit: str) -> Source:
    """A source whose files are in the hub's cache."""
    if formats.check_inside(path).is_dir():
        return _folder(path, reference.given, reference.label, commit)
    source = _file(path, reference.given)
    source.revision = commit
    return source


def _gguf_headers(reference: Reference, repository: hub.Repository, names: list[str]) -> Source:
    """A GGUF on the hub, without its weights."""
    header = hub_files.gguf_header(repository, names)
    adapter.refuse_gguf(header.value("general.type"), header.path.name)
    return Source(
        kind="gguf",
        path=header.path,
        name=str(header.value("general.name") or header.path.stem),
        given=reference.given,
        tensors=header.tensors,
        gguf=header,
        revision=repository.commit,
        weight_files=header.paths,
    )


def _checkpoint_headers(reference: Reference, repository: hub.Repository) -> Source | None:
    """A checkpoint on the hub, its side files fetched and its weights not.

    None where headers do not say how large its matrices are.
    """
    weight_files = repository.weight_files
    if adapter.CONFIG in repository.files and "config.json" not in repository.files:
        path = hub.fetch(repository, [adapter.CONFIG])[adapter.CONFIG]
        raise adapter.refusal(reference.given, adapter.base_of(path))
    if "config.json" not in repository.files:
        raise SourceError(
            f"{reference.name} has no config.json", expected="a language model repository"
        )
    files = hub.fetch(repository, repository.side_files)
    config, notes = _config(files["config.json"])
    config = packed.with_settings(config, files)
    if prequantized.shapes_need_values(config):
        return None
    tensors, config, losses = packed.unpacked(hub.headers(repository), config)
    tensors |= steps.tensors(files)
    folder = files["config.json"].parent
    return Source(
        kind="hf",
        path=folder,
        name=reference.label,
        given=reference.given,
        tensors=tensors,
        config=config,
        files=files,
        revision=repository.commit,
        weight_files=[folder / n for n in sorted(weight_files)],
        notes=[*notes, *losses],
    )
