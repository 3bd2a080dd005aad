"""Artefacts to an object store: files, their evidence, and the manifest last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kanna._util.progress import Progress
from kanna.checks import GATE
from kanna.errors import MissingError
from kanna.packaging import bom
from kanna.packaging.prepared import PreparedArtefact
from kanna.packaging.pushed import PushedVariant, PushResult
from kanna.packaging.resources import memory_of
from kanna.registry import evidence, manifests
from kanna.registry.store_pulling import SIGNATURES
from kanna.registry.stores import MANIFEST, ObjectStore, StoredVariant, manifest_of


def send(
    address: str,
    prepared: Sequence[PreparedArtefact],
    key: Path | None,
    dry_run: bool,
    progress: Progress,
) -> PushResult:
    """Push artefacts; a folder of that version is filled, and becomes what is pulled at the end.

    Args:
        address: Of the prefix.
        prepared: What.
        key: A private key that signs the manifest.
        dry_run: Say what would be sent.
        progress: Where sending is reported.

    Raises:
        SourceError: The store cannot be reached, or refuses.
    """
    store = ObjectStore(address)
    manifest = manifest_of(tuple(map(_stored, prepared)))
    places = {
        f"{manifest.version}/{one.variant}/{place}": path
        for one in prepared
        for place, path in one.files.items()
    }
    sent, notes = dict[str, int](), [note for one in prepared for note in one.notes]
    if not dry_run:
        progress.start(f"push {store.address}", sum(p.stat().st_size for p in places.values()))
        try:
            for place, path in places.items():
                sent[place] = path.stat().st_size if store.put(path, place, progress) else 0
        finally:
            progress.finish()
        for one in prepared:
            notes += _keep_evidence(store, f"{manifest.version}/{one.variant}", one)
        if key is not None:
            signature = evidence.signature_of(manifest.data, key)
            store.put_bytes(signature, f"{SIGNATURES}/{manifest.digest}.sig")
        store.put_bytes(manifest.data, MANIFEST)
    variants = tuple(
        PushedVariant(
            variant=one.variant,
            manifest=f"sha256:{manifest.digest}",
            num_bytes=one.artefact.num_bytes,
            sent_bytes=sum(sent.get(f"{manifest.version}/{one.variant}/{p}", 0) for p in one.files),
            memory_bytes=memory_of(one.artefact)[0],
            gate=one.gate.status if one.gate else None,
        )
        for one in prepared
    )
    return PushResult(
        reference=store.address,
        digest=f"sha256:{manifest.digest}",
        variants=variants,
        signed=key is not None and not dry_run,
        dry_run=dry_run,
        files={place: path.stat().st_size for place, path in places.items()} if dry_run else {},
        notes=tuple(notes),
    )


def _stored(one: PreparedArtefact) -> StoredVariant:
    files = {place: (one.hashes[place], path.stat().st_size) for place, path in one.files.items()}
    return StoredVariant(name=one.variant, memory=memory_of(one.artefact)[0], files=files)


def _keep_evidence(store: ObjectStore, above: str, one: PreparedArtefact) -> list[str]:
    """Write gate report and bill of materials beside a model; what could not be."""
    notes: list[str] = []
    if one.gate is not None:
        store.put_bytes(manifests.encoded(one.gate.values), f"{above}{GATE}")
    try:
        store.put_bytes(bom.bom(one.artefact).encode(), f"{above}.{bom.FILE}")
    except MissingError as error:
        notes.append(f"no bill of materials: {error.found}")
    return notes
