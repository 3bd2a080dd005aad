"""What models that are here have of one that is pulled: by lists of pieces, beside its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kanna import oci
from kanna._util.atomic import write_json
from kanna._util.typed import TypedObject, text
from kanna.errors import KannaError
from kanna.formats import pieces
from kanna.formats.patchwork import KnownPieces, Patchwork
from kanna.formats.pieces import FilePieces
from kanna.formats.text_files import parse_json, read_object
from kanna.registry import evidence, manifests
from kanna.registry.client import RegistryRepository
from kanna.registry.manifests import Descriptor, ManifestDocument

FORMAT = "kanna.pieces.list/1"
WORTH = 1 << 20
"""Bytes of a file that is worth a list."""


def patchworks(
    repository: RegistryRepository, document: ManifestDocument, files: Mapping[str, Descriptor]
) -> dict[str, Patchwork]:
    """By digest, what is here of files that are not; the lists of new files are kept.

    Args:
        repository: Where the manifest is.
        document: It.
        files: Those that it names.
    """
    lacking = {d.hex: d for d in files.values() if d.size >= WORTH and not _is_here(d.hex)}
    if not lacking:
        return {}
    wanted = _lists(repository, document, lacking)
    known = _known()
    for digest, one in wanted.items():
        place = list_path(digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, one.to_dict())
    return {f"sha256:{hex}": Patchwork(one, known) for hex, one in wanted.items() if known}


def list_path(digest: str) -> Path:
    """Where the list of a file's pieces is kept.

    Args:
        digest: SHA-256 of the file.
    """
    return oci.folder() / "pieces" / f"{digest}.json"


def _is_here(digest: str) -> bool:
    return (oci.folder() / "sha256" / digest).is_file()


def _lists(
    repository: RegistryRepository, document: ManifestDocument, lacking: Mapping[str, Descriptor]
) -> dict[str, FilePieces]:
    """Lists that the registry has, by the hash of the file."""
    lists: dict[str, FilePieces] = {}
    what = f"the list of pieces of {repository.name.repository}"
    for data in evidence.referring(repository, document, manifests.PIECES):
        with suppress(KannaError):  # without a list, everything is fetched
            values = TypedObject.of(parse_json(data.decode("utf-8", "replace"), what), what)
            if values.need("format", text(80)) == FORMAT:
                named = values.part("files")
                for digest in lacking.keys() & named.values.keys():
                    size = lacking[digest].size
                    lists[digest] = pieces.read(named.part(digest).values, size, what)
    return lists


def _known() -> KnownPieces:
    """Pieces of files that were pulled."""
    known = KnownPieces()
    folder = list_path("").parent
    for place in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        blob = oci.folder() / "sha256" / place.stem
        if blob.is_file():
            with suppress(KannaError, OSError):
                known.add(blob, pieces.read(read_object(place).values, blob.stat().st_size, ""))
        else:
            place.unlink(missing_ok=True)
    return known
