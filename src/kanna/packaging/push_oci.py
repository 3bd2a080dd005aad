"""Artefacts to an OCI registry: files, manifests, and what refers to them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna import oci
from kanna._util import own_files
from kanna._util.progress import Progress
from kanna.errors import MissingError
from kanna.packaging import bom
from kanna.packaging.artefact import Artefact
from kanna.packaging.prepared import PreparedArtefact
from kanna.packaging.pushed import PushedVariant, PushResult
from kanna.packaging.resources import memory_of
from kanna.registry import evidence, manifests, piece_lists, upload
from kanna.registry.client import RegistryRepository
from kanna.registry.layouts.base import FILEPATH, TITLE, LayoutSubject, PackedLayer, RegistryLayout
from kanna.registry.manifests import Descriptor, ManifestDocument
from kanna.registry.uploads import BlobUploads


def send(
    uploads: BlobUploads,
    prepared: Sequence[PreparedArtefact],
    layout: RegistryLayout,
    key: Path | None,
    progress: Progress,
) -> PushResult:
    """Push every artefact in a layout, then what the tag names.

    Args:
        uploads: What sends files, and may have begun.
        prepared: The artefacts.
        layout: How they lie in the registry.
        key: A private key that signs the manifests.
        progress: Where sending is reported.
    """
    repository = uploads.repository
    name = repository.name
    sizes = {h: one.files[p].stat().st_size for one in prepared for p, h in one.hashes.items()}
    with ThreadPoolExecutor(1) as beside:
        pending = [_begin_evidence(beside, one, layout) for one in prepared]
        progress.start(f"push {name.repository}", sum(sizes.values()))
        uploads.transfers.show(progress)
        try:
            # A registry syncs each blob to its disk: small ones go while large ones are sent.
            described = [
                _describe(uploads, one, layout, parts, key)
                for one, parts in zip(prepared, pending, strict=True)
            ]
            sent = [uploads.sent_bytes(model.document.children) for model in described]
        finally:
            progress.finish()
    for model in described:
        document = model.document
        repository.put_manifest(document.data, document.media_type, document.described().digest)
        if model.referring:
            repository.attach(document.described({}), model.referring)
    documents = [model.document for model in described]
    top = documents[0]
    if len(documents) > 1:
        top = _index(documents, layout)
        repository.put_manifest(top.data, top.media_type, top.described().digest)
        if key is not None:
            signature = {manifests.SIGNATURE: evidence.signature_of(top.data, key)}
            repository.attach(top.described({}), _push_evidence(repository, top, signature))
    repository.put_manifest(top.data, top.media_type, name.tag)
    return PushResult(
        reference=str(name),
        digest=top.described().digest,
        variants=tuple(
            _variant(one, document, num_bytes)
            for one, document, num_bytes in zip(prepared, documents, sent, strict=True)
        ),
        signed=key is not None,
        notes=tuple(dict.fromkeys(note for model in described for note in model.notes)),
    )


def planned(name: oci.OciName, prepared: Sequence[PreparedArtefact]) -> PushResult:
    """What would be pushed; the registry is not asked."""
    return PushResult(
        reference=str(name),
        digest="",
        variants=tuple(
            PushedVariant(
                variant=one.variant,
                manifest="",
                num_bytes=one.artefact.num_bytes,
                sent_bytes=0,
                memory_bytes=memory_of(one.artefact)[0],
                gate=one.gate.status if one.gate else None,
            )
            for one in prepared
        ),
        signed=False,
        notes=[note for one in prepared for note in one.notes],
        dry_run=True,
        files={place: f.stat().st_size for one in prepared for place, f in one.files.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingEvidence:
    """What is worked out about an artefact while its files are sent."""

    bill: Future[bytes | str]
    pieces: Future[bytes | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _DescribedModel:
    """Manifests of an artefact that are not written yet: its blobs are still on their way."""

    document: ManifestDocument
    referring: Sequence[ManifestDocument]
    notes: Sequence[str]


def _begin_evidence(
    beside: ThreadPoolExecutor, one: PreparedArtefact, layout: RegistryLayout
) -> _PendingEvidence:
    return _PendingEvidence(
        bill=beside.submit(_bill, one.artefact),
        pieces=beside.submit(_piece_lists, one) if layout.packed is None else None,
    )


def _describe(
    uploads: BlobUploads,
    one: PreparedArtefact,
    layout: RegistryLayout,
    pending: _PendingEvidence,
    key: Path | None,
) -> _DescribedModel:
    """Begin with the files of an artefact, push its small blobs, and make its manifests."""
    repository = uploads.repository
    layers: list[Descriptor] = []
    with _blobs(one, layout) as blobs:
        for blob in blobs:
            uploads.begin(blob.path, blob.descriptor)
            if layout.packed is not None:
                uploads.transfers.wait(blob.descriptor.digest)  # its file lasts until the next one
            layers.append(blob.descriptor)
    artefact = one.artefact
    memory, context = memory_of(artefact)
    config = upload.push_bytes(
        repository, manifests.encoded(layout.config(_subject(artefact), layers)), layout.config_type
    )
    annotations = {
        "org.opencontainers.image.title": artefact.name,
        manifests.VARIANT: one.variant,
        manifests.MEMORY: str(memory),
        manifests.CONTEXT: str(context),
    }
    document = _manifest(layout.artifact_type, config, layers, annotations)
    if layout.files is not None:
        layout.files(document, artefact.name)  # as strict as those who will read it
    evidences, notes = _evidence_of(one, document, pending, key)
    return _DescribedModel(
        document=document, referring=_push_evidence(repository, document, evidences), notes=notes
    )


def _variant(one: PreparedArtefact, document: ManifestDocument, sent: int) -> PushedVariant:
    """What was pushed of an artefact."""
    return PushedVariant(
        variant=one.variant,
        manifest=document.described().digest,
        num_bytes=one.artefact.num_bytes,
        sent_bytes=sent,
        memory_bytes=memory_of(one.artefact)[0],
        gate=one.gate.status if one.gate else None,
    )


@contextmanager
def _blobs(one: PreparedArtefact, layout: RegistryLayout) -> Generator[Iterable[PackedLayer]]:
    """The layers of an artefact: its files, or what a layout packs them into."""
    if layout.packed is not None:
        home = oci.folder()
        home.mkdir(parents=True, exist_ok=True)
        with own_files.scratch(home, label="layers") as scratch:
            yield layout.packed(one.files, one.hashes, scratch)
        return
    yield [
        PackedLayer(
            descriptor=Descriptor(
                media_type=layout.media_type(place),
                digest=f"sha256:{one.hashes[place]}",
                size=path.stat().st_size,
                annotations={FILEPATH: place, TITLE: place},
            ),
            path=path,
        )
        for place, path in one.files.items()
    ]


def _subject(artefact: Artefact) -> LayoutSubject:
    """What a configuration says of an artefact."""
    plan = artefact.provenance.get("plan")
    return LayoutSubject(
        name=artefact.name,
        family=artefact.model.family,
        format=artefact.kind,
        num_bytes=artefact.num_bytes,
        parameters=artefact.parameters,
        licence=artefact.licence,
        plan=str(plan) if plan else None,
    )


def _manifest(
    kind: str | None,
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> ManifestDocument:
    values: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": manifests.IMAGE_MANIFEST,
        **({"artifactType": kind} if kind else {}),
        "config": config.to_dict(),
        "layers": [layer.to_dict() for layer in layers],
    }
    if subject is not None:
        values["subject"] = subject.to_dict()
    if annotations:
        values["annotations"] = dict(sorted(annotations.items()))
    return manifests.read_document(manifests.encoded(values), "a manifest of kanna")


def _index(documents: Sequence[ManifestDocument], layout: RegistryLayout) -> ManifestDocument:
    children = [document.described().to_dict() for document in documents]
    values = {
        "schemaVersion": 2,
        "mediaType": manifests.IMAGE_INDEX,
        "artifactType": layout.artifact_type,
        "manifests": children,
    }
    return manifests.read_document(manifests.encoded(values), "an index of kanna")


def _piece_lists(one: PreparedArtefact) -> bytes | None:
    """The pieces of its files, so that a later pull fetches what it lacks alone."""
    return piece_lists.lists_of({one.hashes[place]: path for place, path in one.files.items()})


def _bill(artefact: Artefact) -> bytes | str:
    """The bill of materials; why there is none, where its library is not here."""
    try:
        return bom.bom(artefact).encode()
    except MissingError as error:
        return f"no bill of materials: {error.found}"


def _evidence_of(
    one: PreparedArtefact, document: ManifestDocument, pending: _PendingEvidence, key: Path | None
) -> tuple[dict[str, bytes], list[str]]:
    """What refers to a manifest, by its type; and what does not, for the user."""
    evidences, notes = dict[str, bytes](), one.notes
    pieces = pending.pieces.result() if pending.pieces is not None else None
    if pieces is not None:
        evidences[manifests.PIECES] = pieces
    if one.gate is not None:
        evidences[manifests.GATE] = manifests.encoded(one.gate.values)
    bill = pending.bill.result()
    if isinstance(bill, str):
        notes.append(bill)
    else:
        evidences[manifests.BILL] = bill
    if key is not None:
        evidences[manifests.SIGNATURE] = evidence.signature_of(document.data, key)
    return evidences, notes


def _push_evidence(
    repository: RegistryRepository, document: ManifestDocument, evidences: Mapping[str, bytes]
) -> list[ManifestDocument]:
    """Push what is known of a manifest, by its type; returns the manifests that refer to it."""
    if not evidences:
        return []
    subject = document.described({})
    empty = upload.push_bytes(repository, b"{}", manifests.EMPTY)
    return [
        _manifest(kind, empty, [upload.push_bytes(repository, data, kind)], {}, subject)
        for kind, data in evidences.items()
    ]
