"""Have a model of a registry on this machine: choose, check, fetch, put in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from kanna import oci
from kanna._util import locks, own_files, verified
from kanna._util.atomic import write_json
from kanna._util.disk import explain
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.errors import GateError, OutputError, UsageError
from kanna.formats.patchwork import Patchwork
from kanna.registry import download, evidence, layouts, manifests, reuse
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import Descriptor, ManifestDocument
from kanna.registry.transfers import Transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which of several variants, and who must have signed it.

    Attributes:
        variant: Its name.
        memory: Bytes that it may need; the most precise that needs no more is taken.
        key: A public key; the model must be signed by its owner.
    """

    variant: str | None = None
    memory: int | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledArtefact:
    """What was pulled.

    Attributes:
        path: The file or folder.
        manifest: Digest of its manifest.
        variant: Its name among several.
        signature: `good` by the given key, `not checked` without a key, `none` without a signature.
        gate: Verdict of the gate report that the registry has about these files.
        fetched_bytes: Of the files, those that the registry sent.
    """

    path: Path
    manifest: str
    variant: str | None
    signature: str
    gate: str | None
    fetched_bytes: int


def pull(name: oci.OciName, wanted: Wanted, progress: Progress) -> PulledArtefact:
    """Fetch a model.

    Args:
        name: Which one.
        wanted: Which variant, signed by whom.
        progress: Where fetching is reported.

    Raises:
        SourceError: There is no such model, or the registry cannot be reached.
        RefusedError: The registry sends something else than its manifest says.
        GateError: It is not signed by the owner of the key, or no variant fits.
    """
    repository = RegistryRepository(name)
    top = repository.manifest(name.version)
    signature = None
    if wanted.key is not None:
        signature = evidence.check_signature(repository, top, wanted.key)
    document, variant = _chosen(repository, top, wanted)
    layout = layouts.of(document, str(name))
    files = layouts.files_of(document, str(name))
    digest = document.described().digest
    root = oci.folder() / "models" / digest.partition(":")[2]
    verdict, report = evidence.gate_of(repository, document)
    patchworks = reuse.patchworks(repository, document, files)
    fetched = _fetch_all(repository, files, root, patchworks, progress)
    evidence.keep(
        oci.folder() / "evidence" / root.name,
        {
            evidence.MANIFEST_FILE: document.data,
            "signed.json": top.data if signature else None,
            "model.sig": signature,
            "gate.json": report,
        },
    )
    opened = layout.opened(files)
    path = root / opened if opened else root
    record = oci.record_of(name)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        record,
        {"reference": str(name), "manifest": digest, "path": str(path), "variant": variant},
    )
    if signature is None and evidence.referring(repository, top, manifests.SIGNATURE):
        state = "not checked"
    else:
        state = "good" if signature else "none"
    return PulledArtefact(
        path=path,
        manifest=digest,
        variant=variant,
        signature=state,
        gate=verdict,
        fetched_bytes=fetched,
    )


def _chosen(
    repository: RegistryRepository, top: ManifestDocument, wanted: Wanted
) -> tuple[ManifestDocument, str | None]:
    """The manifest that is wanted, and the name of its variant."""
    if not top.is_index:
        variant = top.annotations.get(manifests.VARIANT)
        if wanted.variant not in (None, variant):
            raise UsageError(
                f"{repository.name} has no variant {wanted.variant!r}",
                expected=variant or "no --variant: it is one model",
            )
        if wanted.memory is not None and (_memory(top.annotations) or 0) > wanted.memory:
            raise _nothing_fits(repository, [top.described()], wanted.memory)
        return top, variant
    kinds = (manifests.IMAGE_MANIFEST,)
    variants = [d for d in top.children if d.media_type in kinds]
    names = [d.annotations.get(manifests.VARIANT, d.digest) for d in variants]
    if wanted.variant is not None:
        if wanted.variant not in names:
            raise UsageError(
                f"{repository.name} has no variant {wanted.variant!r}", expected=", ".join(names)
            )
        chosen = variants[names.index(wanted.variant)]
    else:
        limit = wanted.memory
        fits = [d for d in variants if limit is None or _need(d) <= limit]
        if not fits:
            raise _nothing_fits(repository, variants, limit or 0)
        chosen = max(fits, key=_need)
    document = repository.manifest(chosen.digest)
    if document.is_index:
        raise GateError(f"{repository.name} has an index in its index", expected="manifests")
    return document, names[variants.index(chosen)]


def _need(variant: Descriptor) -> int:
    """Bytes of memory that a variant says it needs."""
    return _memory(variant.annotations) or 0


def _memory(annotations: Mapping[str, str]) -> int | None:
    value = annotations.get(manifests.MEMORY, "")
    return int(value) if value.isdigit() and len(value) < 16 else None


def _nothing_fits(
    repository: RegistryRepository, variants: list[Descriptor], limit: int
) -> GateError:
    listed = ", ".join(
        f"{d.annotations.get(manifests.VARIANT, d.digest[:19])} needs {format_size(_need(d))}"
        for d in variants
    )
    return GateError(
        f"no variant of {repository.name} fits {format_size(limit)}: {listed}",
        expected="more memory, or a smaller variant",
        todo="name one with --variant, or give more with --memory",
    )


def _fetch_all(
    repository: RegistryRepository,
    files: dict[str, Descriptor],
    root: Path,
    patchworks: Mapping[str, Patchwork],
    progress: Progress,
) -> int:
    """Fetch every file into the blobs, lay them out as the model has them; bytes that came."""
    blobs = {d.digest: d for d in files.values()}
    missing = sum(d.size for d in blobs.values() if not download.blob_path(d).is_file())
    root.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root.parent).free
    if missing > free:
        raise OutputError(
            f"{repository.name} needs {format_size(missing)}, the disk has {format_size(free)}",
            todo="free some space, or set KANNA_CACHE to another disk",
        )
    progress.start(f"pull {repository.name.repository}", sum(d.size for d in blobs.values()))
    try:
        with Transfers[tuple[Path, int]]() as transfers:
            transfers.show(progress)
            for digest, blob in blobs.items():
                fetch = partial(download.fetch, repository, blob, patchwork=patchworks.get(digest))
                transfers.begin(digest, fetch)
            got = {digest: transfers.wait(digest) for digest in blobs}
    finally:
        progress.finish()
    fetched = sum(count for _, count in got.values())
    if root.is_dir() and _complete(root, files):
        return fetched
    unfinished = own_files.fresh_name(root)
    with locks.holding(root, "pull"):
        try:
            for place, descriptor in files.items():
                _link(got[descriptor.digest][0], unfinished / PurePosixPath(place))
            own_files.put(unfinished, root)
        except OSError as error:
            raise explain(error, root) from error
        finally:
            own_files.remove(unfinished)
    return fetched


def _complete(root: Path, files: dict[str, Descriptor]) -> bool:
    present = {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}
    return present == set(files) and all(
        verified.holds(root / place, descriptor.hex) for place, descriptor in files.items()
    )


def _link(blob: Path, path: Path) -> None:
    """One more name for a blob; a copy where the file system has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(blob, path)
    except OSError:
        shutil.copyfile(blob, path)
