"""Artefacts to an OCI registry: files, manifests, and what refers to them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
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
    notes: list[str] = []
    variants: list[PushedVariant] = []
    documents: list[ManifestDocument] = []
    sizes = {h: one.files[p].stat().st_size for one in prepared for p, h in one.hashes.items()}
    with ThreadPoolExecutor(1) as beside:
        bills = [beside.submit(_bill, one.artefact) for one in prepared]
        lists = [beside.submit(_piece_lists, one) for one in prepared if layout.packed is None]
        progress.start(f"push {name.repository}", sum(sizes.values()))
        uploads.show(progress)
        try:
            for one in prepared:
                document, variant = _send_one(uploads, one, layout)
                documents.append(document)
                variants.append(variant)
        finally:
            progress.finish()
    for one, document, bill, pieces in zip_longest(prepared, documents, bills, lists):
        repository.put_manifest(document.data, document.media_type, document.described().digest)
        listed = pieces.result() if pieces is not None else None
        evidences, lacking = _evidence_of(one, document, bill.result(), listed, key)
        _attach(repository, document, evidences)
        notes += lacking
    top = documents[0]
    if len(documents) > 1:
        top = _index(documents, layout)
        repository.put_manifest(top.data, top.media_type, top.described().digest)
        if key is not None:
            signature = evidence.signature_of(top.data, key)
            _attach(repository, top, {manifests.SIGNATURE: signature})
    repository.put_manifest(top.data, top.media_type, name.tag)
    return PushResult(
        reference=str(name),
        digest=top.described().digest,
        variants=tuple(variants),
        signed=key is not None,
        notes=tuple(dict.fromkeys(notes)),
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


def _send_one(
    uploads: BlobUploads, one: PreparedArtefact, layout: RegistryLayout
) -> tuple[ManifestDocument, PushedVariant]:
    """Push the files of an artefact; its manifest is not written yet."""
    repository = uploads.repository
    layers: list[Descriptor] = []
    with _blobs(one, layout) as blobs:
        for blob in blobs:
            uploads.begin(blob.path, blob.descriptor)
            if layout.packed is not None:
                uploads.wait(blob.descriptor)  # its file lasts until the next one
            layers.append(blob.descriptor)
        sent = uploads.sent_bytes(layers)
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
    variant = PushedVariant(
        variant=one.variant,
        manifest=document.described().digest,
        num_bytes=artefact.num_bytes,
        sent_bytes=sent,
        memory_bytes=memory,
        gate=one.gate.status if one.gate else None,
    )
    return document, variant


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
    one: PreparedArtefact,
    document: ManifestDocument,
    bill: bytes | str,
    pieces: bytes | None,
    key: Path | None,
) -> tuple[dict[str, bytes], list[str]]:
    """What refers to a manifest, by its type; and what does not, for the user."""
    evidences, notes = dict[str, bytes](), one.notes
    if pieces is not None:
        evidences[manifests.PIECES] = pieces
    if one.gate is not None:
        evidences[manifests.GATE] = manifests.encoded(one.gate.values)
    if isinstance(bill, str):
        notes.append(bill)
    else:
        evidences[manifests.BILL] = bill
    if key is not None:
        evidences[manifests.SIGNATURE] = evidence.signature_of(document.data, key)
    return evidences, notes


def _attach(
    repository: RegistryRepository, document: ManifestDocument, evidences: Mapping[str, bytes]
) -> None:
    """Push what refers to a manifest, by its type."""
    if not evidences:
        return
    subject = document.described({})
    empty = upload.push_bytes(repository, b"{}", manifests.EMPTY)
    referring = [
        _manifest(kind, empty, [upload.push_bytes(repository, data, kind)], {}, subject)
        for kind, data in evidences.items()
    ]
    repository.attach(subject, referring)
