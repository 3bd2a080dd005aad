"""CNCF ModelPack: media types, and manifests read from strangers.

https://github.com/modelpack/model-spec, specs-go/v1: weights are layers as they are, neither
archived nor compressed, so that a variant that shares a file shares its layer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kanna._util.typed import TypedObject, text, whole
from kanna.errors import RefusedError, UnsupportedError
from kanna.formats.text_files import parse_json
from kanna.sources.oci import DIGEST

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT = "application/vnd.cncf.model.doc.v1.raw"
# Written by earlier versions of Docker Model Runner, outside the list of the specification.
_WEIGHTS = (
    WEIGHT,
    "application/vnd.cncf.model.weight.v1.gguf",
    "application/vnd.cncf.model.weight.v1.safetensors",
)
FILES = (*_WEIGHTS, WEIGHT_CONFIG, DOCUMENT)
"""Media types of layers that are files."""
FILEPATH = "org.cncf.model.filepath"
_FILEPATHS = (FILEPATH, "org.cnai.model.filepath", "org.opencontainers.image.title")
VARIANT, MEMORY, CONTEXT = "kanna.variant", "kanna.memory.bytes", "kanna.context"

GATE = "application/vnd.kanna.gate.v1+json"
SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BILL = "application/vnd.cyclonedx+json"
PIECES = "application/vnd.kanna.pieces.v1+json"

MOST_LAYERS = 10_000
LARGEST = 1 << 44
_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
_SIDE = {".json", ".jinja", ".model", ".txt", ".jsonl", ".yaml", ".vocab", ".tiktoken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What a manifest says of a blob or of another manifest.

    Attributes:
        media_type: What it is.
        digest: `sha256:…`.
        size: In bytes.
        annotations: Texts by key.
        artifact_type: Of a manifest in an index.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    artifact_type: str | None = None

    @property
    def hex(self) -> str:
        """The digest without its algorithm."""
        return self.digest.partition(":")[2]

    def to_dict(self) -> dict[str, Any]:
        """The descriptor as JSON has it."""
        values: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.artifact_type:
            values["artifactType"] = self.artifact_type
        if self.annotations:
            values["annotations"] = dict(sorted(self.annotations.items()))
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDocument:
    """A manifest or an index: its bytes, and what they say.

    Attributes:
        data: As the registry has it.
        media_type: What it is.
        children: Its layers, or the manifests of an index.
        artifact_type: What it holds.
        annotations: Texts by key.
        config: Of a manifest.
    """

    data: bytes
    media_type: str
    children: tuple[Descriptor, ...]
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Descriptor | None = None

    @property
    def is_index(self) -> bool:
        """Whether it names manifests rather than files."""
        return self.media_type == IMAGE_INDEX

    def described(self, annotations: Mapping[str, str] | None = None) -> Descriptor:
        """The descriptor that names it.

        Args:
            annotations: Of the descriptor; None takes its own.
        """
        return Descriptor(
            media_type=self.media_type,
            digest=digest_of(self.data),
            size=len(self.data),
            annotations=self.annotations if annotations is None else annotations,
            artifact_type=self.artifact_type,
        )


def digest_of(data: bytes) -> str:
    """`sha256:…` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def media_type_of(place: str) -> str:
    """The media type of a file of a model, by its name."""
    name = PurePosixPath(place).name
    if name.upper().startswith(("README", "LICENSE", "LICENCE", "NOTICE")):
        return DOCUMENT
    return WEIGHT_CONFIG if PurePosixPath(name).suffix.lower() in _SIDE else WEIGHT


def encoded(value: Mapping[str, Any]) -> bytes:
    """JSON that is the same for the same values."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read_document(data: bytes, what: str) -> ManifestDocument:
    """Read a manifest or an index.

    Args:
        data: As the registry sent it.
        what: Its name, for messages.

    Raises:
        FormatError: It is none.
        UnsupportedError: It is a manifest of another kind.
    """
    values = TypedObject.of(parse_json(data.decode("utf-8", "replace"), what), what)
    inner = values.get("mediaType", text(200), "")
    if not inner:
        inner = IMAGE_INDEX if "manifests" in values else IMAGE_MANIFEST
    if inner not in (IMAGE_MANIFEST, IMAGE_INDEX):
        raise UnsupportedError(f"{what} is {inner!r}", expected=f"{IMAGE_MANIFEST} or an index")
    index = inner == IMAGE_INDEX
    parts = [*values.parts("manifests" if index else "layers")]
    if len(parts) > MOST_LAYERS:
        raise RefusedError(f"{what} names {len(parts)} parts", expected=f"at most {MOST_LAYERS}")
    return ManifestDocument(
        data=data,
        media_type=inner,
        children=tuple(map(_descriptor, parts)),
        artifact_type=values.get("artifactType", text(200), None),
        annotations=_annotations(values),
        config=None if index else _descriptor(values.part("config")),
    )


def _descriptor(values: TypedObject) -> Descriptor:
    digest = values.need("digest", text(200))
    if not DIGEST.fullmatch(digest):
        raise UnsupportedError(
            f"{values.file} names the digest {digest[:80]!r}", expected="sha256:, 64 digits"
        )
    return Descriptor(
        media_type=values.need("mediaType", text(200)),
        digest=digest,
        size=values.need("size", whole(0, LARGEST)),
        annotations=_annotations(values),
        artifact_type=values.get("artifactType", text(200), None),
    )


def _annotations(values: TypedObject) -> dict[str, str]:
    part = values.part("annotations")
    return {key: part.need(key, text()) for key in part.values}


def files_of(manifest: ManifestDocument, what: str) -> dict[str, Descriptor]:
    """The files of a model by their path in its folder.

    Raises:
        UnsupportedError: It holds no model, or archives.
        RefusedError: A path leads elsewhere, is there twice, or runs code when it is read.
    """
    kinds = {manifest.artifact_type, manifest.config.media_type if manifest.config else None}
    if not kinds & {MODEL, CONFIG}:
        raise UnsupportedError(
            f"{what} holds {manifest.artifact_type or 'no model'}",
            expected=f"a ModelPack manifest ({MODEL})",
        )
    files: dict[str, Descriptor] = {}
    for layer in manifest.children:
        if layer.media_type not in FILES:
            raise UnsupportedError(
                f"{what} has a layer of {layer.media_type}",
                expected="files as they are: " + ", ".join(FILES),
                todo="push it without archives, as kanna push and modctl --raw do",
            )
        names = (layer.annotations.get(key) for key in _FILEPATHS)
        place = next((name for name in names if name), "")
        check_place(place, files, what)
        files[place] = layer
    if not any(layer.media_type in _WEIGHTS for layer in files.values()):
        raise UnsupportedError(f"{what} has no weights", expected=WEIGHT)
    return files


def check_place(place: str, taken: Mapping[str, object], what: str) -> None:
    """Refuse a path that leads elsewhere, is there twice, or runs code when it is read.

    Args:
        place: As a stranger named it.
        taken: Paths before it.
        what: Whose it is, for messages.
    """
    path = PurePosixPath(place)
    odd = not place.isprintable() or set(place) & set('\\:*?"<>|') or len(place.encode()) > 400
    words = place.split("/")
    if not place or odd or path.is_absolute() or any(word in ("", ".", "..") for word in words):
        raise RefusedError(
            f"{what} names a file {place[:100]!r}", expected="a plain path inside the model"
        )
    if path.suffix.lower() in _PICKLED:
        raise RefusedError(f"{what} has {place[:100]!r}, which can run code when it is read")
    lower = place.lower()
    for other in (name.lower() for name in taken):
        if lower == other or lower.startswith(f"{other}/") or other.startswith(f"{lower}/"):
            raise RefusedError(f"{what} has two files at {place[:100]!r}", expected="one of them")
