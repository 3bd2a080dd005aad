"""Artefacts to an OCI registry: files, manifests, and what refers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kanna._util.progress import Progress
from kanna.errors import MissingError
from kanna.packaging import bom
from kanna.packaging.artefact import Artefact
from kanna.packaging.prepared import PreparedArtefact
from kanna.packaging.pushed import PushedVariant, PushResult
from kanna.packaging.resources import memory_of
from kanna.registry import evidence, modelpack, reuse, upload
from kanna.registry.client import RegistryRepository
from kanna.registry.modelpack import Descriptor, ManifestDocument
from kanna.sources import oci


def send(
    name: oci.OciName, prepared: Sequence[PreparedArtefact], key: Path | None, progress: Progress
) -> PushResult:
    """Push every artefact, then what the tag names."""
    repository = RegistryRepository(name, pushes=True)
    notes: list[str] = []
    variants: list[PushedVariant] = []
    documents: list[ManifestDocument] = []
    total = sum(p.artefact.num_bytes for p in prepared)
    with ThreadPoolExecutor(1) as beside:
        bills = [beside.submit(_bill, one.artefact) for one in prepared]
        lists = [beside.submit(_piece_lists, one) for one in prepared]
        progress.start(f"push {name.repository}", total)
        try:
            for one in prepared:
                document, variant = _send_one(repository, one, progress)
                documents.append(document)
                variants.append(variant)
        finally:
            progress.finish()
    for one, document, bill, pieces in zip(prepared, documents, bills, lists, strict=True):
        repository.put_manifest(document.data, document.media_type, document.described().digest)
        if (listed := pieces.result()) is not None:
            _attach(repository, document, modelpack.PIECES, listed)
        notes += _attach_evidence(repository, one, document, bill.result(), key)
    top = documents[0]
    if len(documents) > 1:
        top = _index(documents)
        repository.put_manifest(top.data, top.media_type, top.described().digest)
        if key is not None:
            _attach_signature(repository, top, key)
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
        dry_run=True,
        files={place: f.stat().st_size for one in prepared for place, f in one.files.items()},
    )


def _send_one(
    repository: RegistryRepository, one: PreparedArtefact, progress: Progress
) -> tuple[ManifestDocument, PushedVariant]:
    """Push the files of an artefact; its manifest is not written yet."""
    sent, layers = 0, list[Descriptor]()
    for place, path in one.files.items():
        title = {modelpack.FILEPATH: place, "org.opencontainers.image.title": place}
        layer = Descriptor(
            media_type=modelpack.media_type_of(place),
            digest=f"sha256:{one.hashes[place]}",
            size=path.stat().st_size,
            annotations=title,
        )
        if upload.push_file(repository, path, layer, progress):
            sent += layer.size
        layers.append(layer)
    artefact = one.artefact
    memory, context = memory_of(artefact)
    config = upload.push_bytes(
        repository, modelpack.encoded(_config(one, layers)), modelpack.CONFIG
    )
    annotations = {
        "org.opencontainers.image.title": artefact.name,
        modelpack.VARIANT: one.variant,
        modelpack.MEMORY: str(memory),
        modelpack.CONTEXT: str(context),
    }
    document = _manifest(modelpack.MODEL, config, layers, annotations)
    modelpack.files_of(document, artefact.name)  # as strict as those who will read it
    variant = PushedVariant(
        variant=one.variant,
        manifest=document.described().digest,
        num_bytes=artefact.num_bytes,
        sent_bytes=sent,
        memory_bytes=memory,
        gate=one.gate.status if one.gate else None,
    )
    return document, variant


def _config(one: PreparedArtefact, layers: Sequence[Descriptor]) -> dict[str, Any]:
    """The configuration of a model, as ModelPack has it."""
    artefact = one.artefact
    descriptor: dict[str, Any] = {"name": artefact.name, "family": artefact.model.family}
    if artefact.licence:
        descriptor["licenses"] = [artefact.licence]
    config: dict[str, Any] = {"architecture": "transformer", "format": artefact.kind}
    if artefact.parameters:
        config["paramSize"] = f"{artefact.parameters / 1e9:.3g}b"
    if plan := artefact.provenance.get("plan"):
        config["quantization"] = str(plan)
    return {
        "descriptor": descriptor,
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        "config": config,
    }


def _manifest(
    kind: str,
    config: Descriptor,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str],
    subject: Descriptor | None = None,
) -> ManifestDocument:
    values: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": modelpack.IMAGE_MANIFEST,
        "artifactType": kind,
        "config": config.to_dict(),
        "layers": [layer.to_dict() for layer in layers],
    }
    if subject is not None:
        values["subject"] = subject.to_dict()
    if annotations:
        values["annotations"] = dict(sorted(annotations.items()))
    return modelpack.read_document(modelpack.encoded(values), "a manifest of kanna")


def _index(documents: Sequence[ManifestDocument]) -> ManifestDocument:
    children = [document.described().to_dict() for document in documents]
    values = {
        "schemaVersion": 2,
        "mediaType": modelpack.IMAGE_INDEX,
        "artifactType": modelpack.MODEL,
        "manifests": children,
    }
    return modelpack.read_document(modelpack.encoded(values), "an index of kanna")


def _piece_lists(one: PreparedArtefact) -> bytes | None:
    """The pieces of its files, so that a later pull fetches what it lacks alone."""
    return reuse.lists_of({one.hashes[place]: path for place, path in one.files.items()})


def _bill(artefact: Artefact) -> bytes | str:
    """The bill of materials; why there is none, where its library is not here."""
    try:
        return bom.bom(artefact).encode()
    except MissingError as error:
        return f"no bill of materials: {error.found}"


def _attach_evidence(
    repository: RegistryRepository,
    one: PreparedArtefact,
    document: ManifestDocument,
    bill: bytes | str,
    key: Path | None,
) -> list[str]:
    """Attach gate report, bill of materials and signature; returns what could not be."""
    notes: list[str] = []
    if one.gate is not None:
        _attach(repository, document, modelpack.GATE, modelpack.encoded(one.gate.values))
    else:
        notes.append(f"{one.variant} was pushed without a proof")
    if isinstance(bill, str):
        notes.append(bill)
    else:
        _attach(repository, document, modelpack.BILL, bill)
    if key is not None:
        _attach_signature(repository, document, key)
    return notes


def _attach_signature(
    repository: RegistryRepository, document: ManifestDocument, key: Path
) -> None:
    _attach(repository, document, modelpack.SIGNATURE, evidence.signature_of(document.data, key))


def _attach(
    repository: RegistryRepository, document: ManifestDocument, kind: str, data: bytes
) -> None:
    """Push something that refers to a manifest."""
    layer = upload.push_bytes(repository, data, kind)
    empty = upload.push_bytes(repository, b"{}", modelpack.EMPTY)
    subject = document.described({})
    repository.attach(subject, _manifest(kind, empty, [layer], {}, subject))
