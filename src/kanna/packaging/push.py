"""The verb `push`: artefacts to a registry, with the proof of each beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import signing
from kanna._util.arguments import several
from kanna._util.bars import shown
from kanna._util.progress import Progress
from kanna._util.results import Result, ResultTable
from kanna._util.units import format_size
from kanna.errors import GateError, MissingError, UsageError
from kanna.packaging import bom
from kanna.packaging.artefact import Artefact, open_artefact
from kanna.packaging.resources import beside_weights
from kanna.registry import evidence, modelpack, reuse, upload
from kanna.registry.client import RegistryRepository
from kanna.registry.modelpack import Descriptor, ManifestDocument
from kanna.sizing import CONTEXT
from kanna.sources import oci
from kanna.verification import gate_report

__all__ = ["PushResult", "PushedVariant", "push"]

_ODD = re.compile("[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedVariant:
    """One artefact in a registry.

    Attributes:
        variant: Its name among those of the tag.
        manifest: Digest of its manifest.
        num_bytes: Of its files.
        sent_bytes: Of those that the registry did not have.
        memory_bytes: What it needs to run, at 4,096 tokens of context.
        gate: Verdict of the gate report beside it; None where there is none.
    """

    variant: str
    manifest: str
    num_bytes: int
    sent_bytes: int
    memory_bytes: int
    gate: str | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PushResult(Result):
    """What was pushed.

    Attributes:
        reference: The name that it can be pulled by.
        digest: Of the manifest, or of the index of several.
        variants: Each artefact.
        signed: Whether it has a signature.
        notes: What the user should know.
    """

    reference: str
    digest: str
    variants: Sequence[PushedVariant]
    signed: bool
    notes: Sequence[str] = field(default_factory=tuple[str, ...])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)

    def headline(self) -> str:
        """What was pushed, and what of it was sent."""
        total = sum(v.num_bytes for v in self.variants)
        sent = sum(v.sent_bytes for v in self.variants)
        return f"{self.reference}: {format_size(total)}, of which {format_size(sent)} were sent"

    def tables(self) -> Sequence[ResultTable]:
        """Each variant."""
        rows = [
            (v.variant, format_size(v.num_bytes), format_size(v.memory_bytes), v.gate)
            for v in self.variants
        ]
        return [ResultTable(columns=("variant", "size>", "memory>", "gate"), rows=rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """An artefact that may be pushed."""

    artefact: Artefact
    files: Mapping[str, Path]
    hashes: Mapping[str, str]
    variant: str
    gate: gate_report.GateReport | None


def push(
    destination: str,
    artefacts: str | Path | Sequence[str | Path],
    *,
    gate: str | Path | Sequence[str | Path] = (),
    unproved: bool = False,
    sign_key: str | Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> PushResult:
    """Push files to a registry as CNCF ModelPack, each with the report of its gate.

    Files that the registry has are not sent again; an interrupted push goes on where it stopped.
    Of several files the tag becomes an index of variants, of which `pull` takes what fits.

    Args:
        destination: `oci://HOST/NAME:TAG`.
        artefacts: Files or folders, or any references to them.
        gate: Gate reports that `kanna verify --gate` wrote, one per file in their order; none
            takes MODEL.gate.json beside each.
        unproved: Push what has no report that every check passed, too.
        sign_key: A private key (PEM) to sign the manifests with.
        offline: Look for files on this machine alone.
        progress: Where hashing and sending are reported.

    Returns:
        What was pushed, by digest.

    Raises:
        GateError: A file was not proved.
        UsageError: A name, a key or a report does not serve.
        SourceError: The registry cannot be reached, or refuses.
    """
    if not destination.startswith(oci.SCHEME):
        raise UsageError(f"{destination} is in no registry", expected=oci.FORM)
    name = oci.parse(destination)
    if name.digest is not None:
        raise UsageError(f"{destination} names a digest", expected="a tag, which is set")
    given = [artefacts] if isinstance(artefacts, (str, Path)) else list(artefacts)
    if not given:
        raise UsageError("no file was named", expected="files or folders")
    reports = [Path(one) for one in several(gate)]
    if reports and len(reports) != len(given):
        raise UsageError(
            f"{len(reports)} gate reports for {len(given)} files", expected="one for each"
        )
    if sign_key is not None:
        signing.check_key(Path(sign_key))
    progress = shown(progress)
    prepared: list[_Prepared] = []
    for at, one in enumerate(given):
        artefact = open_artefact(one, offline=offline, progress=progress)
        taken = {p.variant for p in prepared}
        prepared.append(_prepare(artefact, reports[at] if reports else None, unproved, taken))
    return _send(name, prepared, Path(sign_key) if sign_key else None, progress)


def _prepare(artefact: Artefact, report: Path | None, unproved: bool, taken: set[str]) -> _Prepared:
    """Hold an artefact to its gate report."""
    whole = artefact.place in artefact.files  # one file or its parts, not a folder
    prefix = f"{artefact.place}/"
    files = {(f.name if whole else p.removeprefix(prefix)): f for p, f in artefact.files.items()}
    hashes = {
        (f.name if whole else p.removeprefix(prefix)): artefact.hashes[p]
        for p, f in artefact.files.items()
    }
    first = next(iter(artefact.files.values()))
    location = first if whole else _folder_of(artefact)
    place = report or gate_report.beside(location)
    gate = None
    if report is not None or place.is_file():
        gate = gate_report.read(place)
        try:
            gate_report.require_proof(gate, hashes, place)
        except GateError:
            if not unproved:
                raise
            gate = None if dict(gate.files) != hashes else gate
    elif not unproved:
        raise GateError(
            f"{location.name} has no gate report: there is no {place}",
            expected="a report that every check of kanna verify passed",
            todo=f"kanna verify SRC {location} --gate {place}, or push it with --unproved",
        )
    return _Prepared(
        artefact=artefact,
        files=files,
        hashes=hashes,
        variant=_variant(artefact, location, taken),
        gate=gate,
    )


def _folder_of(artefact: Artefact) -> Path:
    """The folder of an artefact, from its files."""
    place, path = next(iter(artefact.files.items()))
    depth = place.removeprefix(f"{artefact.place}/").count("/")
    return path.parents[depth]


def _variant(artefact: Artefact, location: Path, taken: set[str]) -> str:
    """A name among variants: the plan of the artefact, else its file's name."""
    stem = location.stem if location.is_file() else location.name
    options = (str(artefact.provenance.get("plan") or ""), stem, f"{artefact.kind}-{stem}")
    for option in options:
        name = _ODD.sub("-", option).strip("-.")[:60]
        if name and name not in taken:
            return name
    raise UsageError(f"{location.name} is named twice", expected="each file once")


def _send(
    name: oci.OciName, prepared: Sequence[_Prepared], key: Path | None, progress: Progress
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


def _send_one(
    repository: RegistryRepository, one: _Prepared, progress: Progress
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
    context = min(CONTEXT, artefact.trained_context or CONTEXT)
    memory = artefact.num_bytes + sum(beside_weights(artefact, context))
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


def _config(one: _Prepared, layers: Sequence[Descriptor]) -> dict[str, Any]:
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


def _piece_lists(one: _Prepared) -> bytes | None:
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
    one: _Prepared,
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
