"""Manifests and indices of OCI registries, read from strangers, and what kanna puts beside them."""

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
from kanna.oci import DIGEST

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
VARIANT, MEMORY, CONTEXT = "kanna.variant", "kanna.memory.bytes", "kanna.context"

GATE = "application/vnd.kanna.gate.v1+json"
SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BILL = "application/vnd.cyclonedx+json"
PIECES = "application/vnd.kanna.pieces.v1+json"

MOST_LAYERS = 10_000
LARGEST = 1 << 44
_PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}


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
