"""The verb `pull`: have a model on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna import oci
from kanna._util.bars import shown
from kanna._util.disk import folder_size
from kanna._util.progress import Progress
from kanna._util.results import Result
from kanna._util.units import Size, format_size, optional_size
from kanna.errors import NotFoundError, UsageError
from kanna.registry import pulling, stores

__all__ = ["PullResult", "pull"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PullResult(Result):
    """Where a model is now.

    Attributes:
        reference: As the user wrote it.
        path: The file or folder.
        num_bytes: What it takes.
        revision: The commit, of a model on the hub; the digest of the manifest, of a registry.
        variant: Which of several was taken, of a registry.
        signature: Of a registry: `good` by the given key, `not checked` without a key, `none`
            without a signature.
        gate: Of a registry: verdict of the gate report that it has about these files.
        fetched_bytes: Of a registry: what it sent; the rest was here, also in other models.
    """

    reference: str
    path: str
    num_bytes: int
    revision: str | None = None
    variant: str | None = None
    signature: str | None = None
    gate: str | None = None
    fetched_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """What is here, and what it takes."""
        size = format_size(self.num_bytes)
        if self.fetched_bytes is None or self.fetched_bytes >= self.num_bytes:
            return f"{self.reference}, {size}"
        return f"{self.reference}, {size}, of which {format_size(self.fetched_bytes)} were fetched"

    def facts(self) -> Sequence[tuple[str, object]]:
        """Where it is."""
        return [
            ("Path", self.path),
            ("Revision", self.revision),
            ("Variant", self.variant),
            ("Signature", self.signature),
            ("Gate", self.gate),
        ]


def pull(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    memory: Size | None = None,
    target: str | None = None,
    key: str | Path | None = None,
    progress: Progress | None = None,
) -> PullResult:
    """Fetch a model, so that every verb can use it without a network.

    Of a repository the files that kanna reads are fetched, into the cache that all Hugging Face
    libraries share; an interrupted download goes on where it stopped. Of a registry (`oci://…`)
    every file is held to its digest.

    Args:
        model: Any reference.
        revision: Branch, tag or commit of a hub id.
        variant: Of a registry: which of several variants.
        memory: Of a registry: bytes that the variant may need, as 2GB; None: what is free here.
            The most precise variant that needs no more is taken.
        target: Of a registry: the device that it is for, in place of `memory`; docs/targets.md.
        key: Of a registry: the public key of who must have signed it, as PEM.
        progress: Where fetching is reported.

    Raises:
        SourceError: There is no such model, or it cannot be fetched.
        UnsupportedError: A path is one of an adapter.
        RefusedError: The registry sends something else than it promised.
        GateError: It is not signed by the owner of the key, or no variant fits.
    """
    progress = shown(progress)
    given = {"variant": variant, "memory": memory, "target": target, "key": key}
    if not stores.is_address(model) and not str(model).startswith(oci.SCHEME):
        if named := [f"--{name}" for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{named[0]} is for models of a registry",
                expected=f"oci://HOST/NAME:TAG, {stores.FORM}",
            )
        return _of_reference(model, revision, progress)
    if revision is not None:
        raise UsageError("--revision is of the hub", expected="a tag: oci://HOST/NAME:TAG")
    if target is not None and memory is not None:
        raise UsageError("--target says how much --memory there is", expected="one of them")
    limit = _memory_of(target) if target is not None else optional_size(memory)
    if limit is None and variant is None:
        limit = _free_memory()
    wanted = pulling.Wanted(variant=variant, memory=limit, key=Path(key) if key else None)
    return _of_registry(str(model), wanted, progress)


# What a path is of loads where it is used: the readers of formats, devices and the hub take longer
# to load than a small model to come from a registry.


def _memory_of(target: str) -> int:
    """Bytes that a device has for a model."""
    from kanna.hardware import targets

    return targets.choose(target).memory


def _free_memory() -> int:
    """Bytes that are free on this machine."""
    from kanna.hardware.memory import memory

    return memory().available


def _of_reference(model: str | Path, revision: str | None, progress: Progress) -> PullResult:
    """Fetch a model that is in no registry."""
    from kanna._util.nearest import absent
    from kanna.sources import adapter, hub, hub_files, locate, references

    reference = references.parse(model, revision)
    if reference.kind == "hub":
        # Not from the cache alone: who pulls wants what the hub has now.
        repository = hub.look_up(reference.name, reference.revision)
        path = hub_files.fetch(repository, reference, progress)
        commit = repository.commit
    else:
        path, commit = locate(model, progress=progress), None
    if not path.exists():
        raise NotFoundError(absent(reference.given), expected=references.FORMS)
    if reference.kind != "hub":  # adapters on the hub are fetched, for verbs that take them
        adapter.refuse_path(path)
    return PullResult(
        reference=reference.given, path=str(path), num_bytes=size_of(path), revision=commit
    )


def _of_registry(model: str, wanted: pulling.Wanted, progress: Progress) -> PullResult:
    """Fetch a model of a registry or an object store."""
    if stores.is_address(model):
        from kanna.registry import store_pulling

        artefact = store_pulling.pull(model, wanted, progress)
    else:
        artefact = pulling.pull(oci.parse(model), wanted, progress)
    return PullResult(
        reference=model,
        path=str(artefact.path),
        num_bytes=size_of(artefact.path),
        revision=artefact.manifest,
        variant=artefact.variant,
        signature=artefact.signature,
        gate=artefact.gate,
        fetched_bytes=artefact.fetched_bytes,
    )


def size_of(path: Path) -> int:
    """Bytes of a file or folder, of links what they lead to."""
    return folder_size(path) if path.is_dir() else path.stat().st_size
