"""The record of a layout: by which media types a model lies in a registry, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from kanna.errors import UnsupportedError
from kanna.registry.manifests import Descriptor, ManifestDocument, check_place

FILEPATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
_FILEPATHS = (FILEPATH, "org.cnai.model.filepath", TITLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSubject:
    """What the configuration of a model in a registry says of it.

    Attributes:
        name: As the model calls itself.
        family: Its architecture.
        format: Of its files, such as `gguf`.
        num_bytes: Of its files.
        parameters: Number of its weights, where it is known.
        licence: As it names it.
        plan: How it was quantized.
    """

    name: str
    family: str
    format: str
    num_bytes: int
    parameters: int | None = None
    licence: str | None = None
    plan: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """A layer that is to be pushed.

    Attributes:
        descriptor: What the manifest says of it.
        path: The file that it is.
    """

    descriptor: Descriptor
    path: Path


Packer = Callable[[Mapping[str, Path], Mapping[str, str], Path], Iterator[PackedLayer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLayout:
    """How a model lies in a registry.

    Attributes:
        summary: What it is, in a line.
        readers: Programs that read it.
        artifact_type: Of its manifest; None: the manifest has none.
        config_type: Media type of its configuration.
        config: The configuration, of a model and its layers.
        media_type: Of a file, by its path.
        kinds: Types of manifests and configurations by which a model in it is known.
        files: The files of a manifest by their paths; None: it cannot be pulled.
        weights: Media types of files of weights.
        companions: Media types of files without which weights that are no GGUF are not opened.
        formats: Formats that it carries; none: all of them.
        variants: Whether several models can be variants of a tag.
        packed: Files into layers that hold them, each in a folder until the next; None: layers are
            files.
    """

    summary: str
    readers: tuple[str, ...]
    artifact_type: str | None
    config_type: str
    config: Callable[[LayoutSubject, Sequence[Descriptor]], Mapping[str, Any]]
    media_type: Callable[[str], str]
    kinds: frozenset[str]
    files: Callable[[ManifestDocument, str], dict[str, Descriptor]] | None = None
    weights: frozenset[str] = frozenset()
    companions: frozenset[str] = frozenset()
    formats: frozenset[str] = field(default_factory=frozenset[str])
    variants: bool = False
    packed: Packer | None = None

    def holds(self, document: ManifestDocument) -> bool:
        """Whether a manifest is of this layout."""
        config = document.config.media_type if document.config else None
        return bool(self.kinds & {document.artifact_type, config})

    def opened(self, files: Mapping[str, Descriptor]) -> str | None:
        """The file that is opened: the only one of weights or the first part; None: the folder."""
        weights = sorted(p for p, d in files.items() if d.media_type in self.weights)
        texts = [p for p in weights if not PurePosixPath(p).name.lower().startswith("mmproj")]
        suffixes = {PurePosixPath(p).suffix.lower() for p in weights}
        alone = not any(d.media_type in self.companions for d in files.values())
        whole = len(suffixes) == 1 and (alone or suffixes == {".gguf"})
        return (texts or weights)[0] if whole else None


def name_of(layer: Descriptor) -> str:
    """The path by which a layer names its file; "" where it names none."""
    names = (layer.annotations.get(key) for key in _FILEPATHS)
    return next((name for name in names if name), "")


def named_files(
    manifest: ManifestDocument, what: str, allowed: frozenset[str], weights: frozenset[str]
) -> dict[str, Descriptor]:
    """Files of a manifest whose layers name them.

    Args:
        manifest: Whose.
        what: Its name, for messages.
        allowed: Media types of layers that are files.
        weights: Those of them that are weights.

    Raises:
        UnsupportedError: It holds archives, or no weights.
        RefusedError: A path leads elsewhere, is there twice, or runs code when it is read.
    """
    files: dict[str, Descriptor] = {}
    for layer in manifest.children:
        check_type(layer, what, allowed)
        place = name_of(layer)
        check_place(place, files, what)
        files[place] = layer
    check_weights(files, what, weights)
    return files


def check_type(layer: Descriptor, what: str, allowed: frozenset[str]) -> None:
    """Raise UnsupportedError for a layer that is no file."""
    if layer.media_type not in allowed:
        raise UnsupportedError(
            f"{what} has a layer of {layer.media_type}",
            expected="files as they are: " + ", ".join(sorted(allowed)),
            todo="push it without archives, as kanna push and modctl --raw do",
        )


def check_weights(files: Mapping[str, Descriptor], what: str, weights: frozenset[str]) -> None:
    """Raise UnsupportedError where no file is of weights."""
    if not any(layer.media_type in weights for layer in files.values()):
        raise UnsupportedError(f"{what} has no weights", expected=" or ".join(sorted(weights)))
