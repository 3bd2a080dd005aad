"""What a registry holds about a manifest: its signature, and the report of its gate."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kanna import signing
from kanna._util import own_files
from kanna._util.atomic import write_bytes
from kanna._util.typed import TypedObject, text
from kanna.errors import GateError, KannaError
from kanna.formats.text_files import parse_json
from kanna.registry import layouts
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import GATE, SIGNATURE, ManifestDocument

MANIFEST_FILE = "manifest.json"
"""Name under which a manifest is signed."""
_MOST_SIGNATURES = 16


def signature_of(data: bytes, key: Path) -> bytes:
    """The signature of a manifest, in the format of model-signing.

    A manifest names every file by its SHA-256, so that its signature holds for all of them.

    Args:
        data: The manifest.
        key: A private key, as PEM.
    """
    with own_files.scratch(label="sign") as folder:
        (folder / MANIFEST_FILE).write_bytes(data)
        signing.sign(folder, key)
        return (folder / signing.FILE).read_bytes()


def hold(data: bytes, signature: bytes, key: Path) -> None:
    """Raise GateError unless a signature of a manifest is by the owner of a public key."""
    with own_files.scratch(label="verify") as folder:
        (folder / MANIFEST_FILE).write_bytes(data)
        (folder / signing.FILE).write_bytes(signature)
        signing.verify(folder, key)


def check_signature(repository: RegistryRepository, document: ManifestDocument, key: Path) -> bytes:
    """The signature of a manifest that a key holds for.

    Raises:
        GateError: There is none.
    """
    reasons: list[str] = []
    for signature in referring(repository, document, SIGNATURE)[:_MOST_SIGNATURES]:
        try:
            hold(document.data, signature, key)
        except GateError as error:
            reasons.append(error.found)
        else:
            return signature
    why = reasons[0] if reasons else "there is no signature"
    raise GateError(
        f"{repository.name} is not signed by the owner of {key.name}: {why}",
        expected="a signature that this key holds for",
        todo="do not use it, or give the key of who signed it",
    )


def referring(repository: RegistryRepository, document: ManifestDocument, kind: str) -> list[bytes]:
    """What refers to a manifest and is of one kind, each held to its digest."""
    contents: list[bytes] = []
    for entry in repository.referrers(document.described().digest):
        if entry.artifact_type not in (kind, None):
            continue
        with suppress(KannaError):  # what cannot be read is no evidence
            manifest = repository.manifest(entry.digest)
            if manifest.artifact_type == kind and manifest.children:
                contents.append(repository.blob(manifest.children[0]))
    return contents


def gate_of(
    repository: RegistryRepository, document: ManifestDocument
) -> tuple[str | None, bytes | None]:
    """The verdict of the gate report about these very files, and the report.

    Args:
        repository: Where the manifest is.
        document: The manifest.
    """
    files = layouts.files_of(document, str(repository.name))
    wanted = {place: layer.hex for place, layer in files.items()}
    for data in referring(repository, document, GATE):
        with suppress(KannaError):
            report = TypedObject.of(parse_json(data.decode("utf-8", "replace"), "gate"), "gate")
            if dict(report.part("files").values) == wanted:
                return report.need("status", text(40)), data
    return None, None


def keep(folder: Path, files: dict[str, bytes | None]) -> None:
    """Keep evidence beside a pulled model.

    Args:
        folder: Where.
        files: By name; None for what there is not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if data is not None:
            write_bytes(folder / name, data)
