"""Models that were pulled from registries, in kanna's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kanna import oci
from kanna.registry import reuse
from kanna.storage.base import StoredModel
from kanna.storage.builtins import num_bytes


def models() -> Iterator[StoredModel]:
    """The models that were pulled."""
    for model in oci.pulled():
        yield StoredModel(
            reference=str(model.name),
            store="registry",
            num_bytes=num_bytes(root_of(model)),
            path=str(model.path),
            revision=model.manifest,
            last_used=model.path.stat().st_atime,
        )


def root_of(model: oci.PulledModel) -> Path:
    """The folder that holds a model's files."""
    return oci.folder() / "models" / model.manifest.partition(":")[2]


def removable(name: oci.OciName) -> tuple[list[Path], int] | None:
    """What goes with a name, and the bytes that frees; None where it was not pulled.

    Files that another pulled model has too stay.

    Args:
        name: Of the model.
    """
    everything = list(oci.pulled())
    wanted = next((model for model in everything if model.name == name), None)
    if wanted is None:
        return None
    paths: list[Path] = [wanted.record]
    root = root_of(wanted)
    if any(model.manifest == wanted.manifest and model.name != name for model in everything):
        return paths, 0
    freed = 0
    own = {p.stat().st_ino: p for p in root.rglob("*") if p.is_file()}
    for blob in (oci.folder() / "sha256").glob("*"):
        about = blob.stat()
        if about.st_ino in own and about.st_nlink <= 2:
            paths.append(blob)
            paths += [p for p in (reuse.list_path(blob.name),) if p.is_file()]
            freed += about.st_size
    evidence = oci.folder() / "evidence" / root.name
    return [*paths, root, *([evidence] if evidence.is_dir() else [])], freed
