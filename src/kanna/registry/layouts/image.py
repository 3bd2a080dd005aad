"""An ordinary image without a base: files below /models, one layer for each.

What mounts images reads it: image volumes of Kubernetes, through them KServe (`oci+native://`,
which mounts /models), and RamaLama, which opens /models/model.file. The layers are tar archives
that are the same for the same file: https://github.com/opencontainers/image-spec, layer.md.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kanna._util.disk import explain
from kanna.errors import ChangedError
from kanna.registry.layouts.base import TITLE, LayoutSubject, PackedLayer, RegistryLayout
from kanna.registry.manifests import Descriptor

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
FOLDER = "models"
LINK = "model.file"
"""The name by which RamaLama opens a model in an image."""


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they pass.

    Args:
        file: Read or written, as it was opened.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.hash = file, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.hash.update(data)
        return data

    def write(self, data: Any, /) -> int:
        self.hash.update(data)
        return self._file.write(data)


def _packed(
    files: Mapping[str, Path], hashes: Mapping[str, str], scratch: Path
) -> Iterator[PackedLayer]:
    """Layers of files, one after the other as an archive in a folder."""
    archive = scratch / "layer.tar"
    for place, path in files.items():
        yield _archived(archive, place, path, hashes[place])
    first = min(files)
    if first.endswith(".gguf") and "/" not in first:
        yield _archived(archive, LINK, first, "")


def _archived(archive: Path, place: str, content: Path | str, digest: str) -> PackedLayer:
    """A layer with one file, held to its hash, or with a link to the file of a name."""
    try:
        with archive.open("wb") as file:
            written = _Hashed(file)
            with tarfile.open(fileobj=written, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                inside = PurePosixPath(FOLDER, place)
                for folder in reversed(inside.parents[:-1]):
                    tar.addfile(_entry(str(folder), tarfile.DIRTYPE, 0o755))
                if isinstance(content, str):
                    link = _entry(str(inside), tarfile.SYMTYPE, 0o777)
                    link.linkname = content
                    tar.addfile(link)
                else:
                    _add(tar, str(inside), content, digest)
            size = file.tell()
    except OSError as error:
        raise explain(error, archive) from error
    return PackedLayer(
        descriptor=Descriptor(
            media_type=LAYER,
            digest=f"sha256:{written.hash.hexdigest()}",
            size=size,
            annotations={TITLE: place},
        ),
        path=archive,
    )


def _add(tar: tarfile.TarFile, inside: str, path: Path, digest: str) -> None:
    """Add a file, and see that it is what was hashed before."""
    entry = _entry(inside, tarfile.REGTYPE, 0o644)
    entry.size = path.stat().st_size
    with path.open("rb") as source:
        read = _Hashed(source)
        tar.addfile(entry, read)  # pyright: ignore[reportArgumentType]
    if read.hash.hexdigest() != digest:
        raise ChangedError(f"{path} was changed while it was read", todo="push it again")


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    """A member that is the same on every machine: of root, of 1970."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _config(subject: LayoutSubject, layers: Sequence[Descriptor]) -> Mapping[str, Any]:
    """An image's configuration; runtimes take the only image of a tag on every architecture."""
    names = [layer.annotations[TITLE] for layer in layers]
    labels = {
        "org.opencontainers.image.title": subject.name,
        "org.containers.type": "ai.image.model.raw",  # by which RamaLama lists its images
    }
    if LINK in names:
        labels["com.ramalama.model.file.location"] = f"/{FOLDER}/{min(set(names) - {LINK})}"
    if subject.licence:
        labels["org.opencontainers.image.licenses"] = subject.licence
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        "history": [{"created_by": f"kanna push: {name}"} for name in names],
    }


def _media_type(place: str) -> str:
    del place
    return LAYER


LAYOUT = RegistryLayout(
    summary="An ordinary image with the files below /models, to be mounted",
    readers=("Kubernetes image volumes", "KServe (oci+native://)", "RamaLama", "podman"),
    artifact_type=None,
    config_type=CONFIG,
    config=_config,
    media_type=_media_type,
    kinds=frozenset({CONFIG, "application/vnd.docker.container.image.v1+json"}),
    packed=_packed,
)
