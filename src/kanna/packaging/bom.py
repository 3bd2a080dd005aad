"""A CycloneDX bill of materials: what the model is, what it was made from, what it needs to run."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from kanna import __version__
from kanna._util import extras, hidden_packages
from kanna._util.distribution import NAME
from kanna.errors import GateError, MissingError
from kanna.escaping import json_text
from kanna.packaging.artefact import Artefact
from kanna.packaging.libraries import NpmLibrary
from kanna.packaging.service import extras_of

FILE = "bom.cdx.json"
# Keys of the provenance that become components and properties of their own.
_SEPARATE = ("source.sha256", "plan.encodings")


def bom(artefact: Artefact, libraries: Sequence[NpmLibrary] = (), *, serves: bool = True) -> str:
    """Returns the bill of materials as CycloneDX 1.6 JSON, the same for the same artefact.

    The time is SOURCE_DATE_EPOCH or that of the artefact's newest file; the serial number is
    derived from its hash.

    Args:
        artefact: What is packaged.
        libraries: What the package takes along to run it.
        serves: Whether kanna serves it there.

    Raises:
        MissingError: cyclonedx-python-lib is not installed.
    """
    lib = _library()
    made = lib.Bom(serial_number=uuid5(NAMESPACE_URL, f"sha256:{artefact.digest}:{__version__}"))
    made.metadata.timestamp = _time(artefact)
    tool = lib.Component(
        type=lib.ComponentType.APPLICATION, name="kanna", version=__version__, bom_ref="tool:kanna"
    )
    made.metadata.tools.components.add(tool)
    model = _model(lib, artefact)
    made.metadata.component = model
    runtimes = [_runtime(lib, library) for library in libraries]
    if serves:
        kanna = lib.Component(
            type=lib.ComponentType.APPLICATION,
            name="kanna",
            version=__version__,
            bom_ref="runtime:kanna",
            description=f"serves it: {NAME}[{extras_of(artefact)}]",
        )
        runtimes.append(kanna)
    for runtime in runtimes:
        made.components.add(runtime)
    made.register_dependency(model, runtimes)
    written = json.loads(
        lib.make_outputter(made, lib.OutputFormat.JSON, lib.SchemaVersion.V1_6).output_as_string()
    )
    # The library knows no model cards yet; the schema does.
    written["metadata"]["component"]["modelCard"] = _card(artefact)
    text = json_text(written) + "\n"
    validate(text)
    return text


def _runtime(lib: Any, library: NpmLibrary) -> Any:
    """A library that the package takes along."""
    group, _, name = library.package.rpartition("/")
    return lib.Component(
        type=lib.ComponentType.LIBRARY,
        name=name,
        group=group or None,
        version=library.version,
        bom_ref=f"runtime:{library.package}",
        purl=lib.PackageURL.from_string(library.purl),
        licenses=_licences(lib, library.licence),
    )


def _time(artefact: Artefact) -> datetime:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    newest = int(given) if given else int(max(p.stat().st_mtime for p in artefact.files.values()))
    return datetime.fromtimestamp(newest, timezone.utc)


def _model(lib: Any, artefact: Artefact) -> Any:
    provenance = artefact.provenance
    files = [
        lib.Component(
            type=lib.ComponentType.FILE,
            name=place,
            bom_ref=f"file:{place}",
            hashes=[_sha256(lib, digest)],
        )
        for place, digest in artefact.hashes.items()
    ]
    sources = [
        lib.Component(
            type=lib.ComponentType.FILE,
            name=name,
            bom_ref=f"source:{name}",
            hashes=[_sha256(lib, digest)],
        )
        for name, digest in provenance.get("source.sha256", {}).items()
    ]
    ancestors: list[Any] = []
    if "source" in provenance:
        # Without hashes a source is still named.
        revision = str(provenance.get("source.revision", "")) or None
        ancestors = [
            lib.Component(
                type=lib.ComponentType.MACHINE_LEARNING_MODEL,
                name=str(provenance["source"]),
                version=revision,
                bom_ref="source",
                components=sources,
            )
        ]
    properties = [lib.Property(name="kanna:kind", value=artefact.kind)]
    for key, value in sorted(provenance.items()):
        if key not in _SEPARATE:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            properties.append(lib.Property(name=f"kanna:{key}", value=text))
    for key, value in provenance.get("plan.encodings", {}).items():
        properties.append(
            lib.Property(name=f"kanna:plan.encodings:{key}", value=f"{value} tensors")
        )
    return lib.Component(
        type=lib.ComponentType.MACHINE_LEARNING_MODEL,
        name=artefact.name,
        version=f"sha256:{artefact.digest}",
        bom_ref="model",
        hashes=[lib.HashType(alg=lib.HashAlgorithm.SHA_256, content=artefact.digest)],
        licenses=_licences(lib, artefact.licence),
        components=files,
        properties=properties,
        pedigree=lib.Pedigree(ancestors=ancestors, notes=provenance.get("command"))
        if ancestors
        else None,
    )


def _sha256(lib: Any, digest: str) -> Any:
    return lib.HashType(alg=lib.HashAlgorithm.SHA_256, content=digest)


def _licences(lib: Any, named: str | None) -> list[Any]:
    """An SPDX identifier where it is one, else the name as it stands."""
    return [lib.LicenseFactory().make_from_string(named)] if named else []


def _card(artefact: Artefact) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": artefact.model.family,
        "inputs": [{"format": "text"}, *([{"format": "image"}] if artefact.mmproj else [])],
        "outputs": [{"format": "text"}],
    }
    facts = {
        "parameters": artefact.parameters,
        "bytes": artefact.num_bytes,
        "context": artefact.trained_context,
        "layers": artefact.model.meta("{arch}.block_count"),
        "hidden": artefact.model.meta("{arch}.embedding_length"),
        "chat template": "yes" if artefact.chat_template else "no",
        "vision tower": artefact.mmproj,
    }
    properties = [
        {"name": f"kanna:{k}", "value": str(v)} for k, v in facts.items() if v not in (None, 0)
    ]
    return {"modelParameters": parameters, "properties": properties}


def validate(text: str) -> None:
    """Check that a text is a valid CycloneDX 1.6 document.

    Raises:
        GateError: It is not.
        MissingError: cyclonedx-python-lib or its validator is not installed.
    """
    lib = _library()
    try:
        problem = lib.JsonStrictValidator(lib.SchemaVersion.V1_6).validate_str(text)
    except lib.MissingOptionalDependencyException as error:
        raise MissingError(
            "a bill of materials needs the validator of cyclonedx-python-lib",
            todo=extras.command("package"),
        ) from error
    except ValueError as error:
        raise GateError(
            f"{FILE} is not JSON: {error}", expected="a CycloneDX 1.6 document"
        ) from error
    if problem is not None:
        raise GateError(
            f"{FILE} is not valid: {str(problem)[:400]}", expected="a CycloneDX 1.6 document"
        )


_CLASSES = {
    "cyclonedx.model": ("HashAlgorithm", "HashType", "Property"),
    "cyclonedx.model.bom": ("Bom",),
    "cyclonedx.model.component": ("Component", "ComponentType", "Pedigree"),
    "cyclonedx.contrib.license.factories": ("LicenseFactory",),
    "cyclonedx.output": ("make_outputter",),
    "cyclonedx.schema": ("OutputFormat", "SchemaVersion"),
    "cyclonedx.validation.json": ("JsonStrictValidator",),
    "cyclonedx.exception": ("MissingOptionalDependencyException",),
    "packageurl": ("PackageURL",),
}

_SYNTAXES = ("rfc3987_syntax", "isoduration")
"""What the validator checks IRIs and durations with, which no bill of ours has: the first compiles
a grammar when it is imported, for 1.2 s."""


def _library() -> Any:
    """Returns the classes of cyclonedx-python-lib that are used here.

    Its decorators hide their types from checkers, so they are Any.
    """
    try:
        with hidden_packages.left_out(*_SYNTAXES):
            classes = {
                n: getattr(importlib.import_module(m), n)
                for m, names in _CLASSES.items()
                for n in names
            }
    except ModuleNotFoundError as error:
        raise MissingError(
            "a bill of materials needs cyclonedx-python-lib", todo=extras.command("package")
        ) from error
    return SimpleNamespace(**classes)
