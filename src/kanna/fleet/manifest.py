"""The manifest of what is rolled out: its files with sizes and hashes, and its place in a sequence.

Its SHA-256 names it. It alone is signed: who holds it to its signature holds every file to it, and
the sequence that tells an older one from a newer.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from kanna._util.typed import TypedObject, text, whole
from kanna.errors import FormatError, RefusedError
from kanna.formats.text_files import parse_json

FORMAT = "kanna.fleet/1"
FILE = "manifest.json"
SELFTEST = "selftest.json"
"""As `self_testing.runner` names it, which would load a runtime with it."""
LARGEST_FILE = 1 << 44
LARGEST_MANIFEST = 4 << 20
LARGEST_SIGNATURE = 1 << 20
MOST_FILES = 10_000
DIGEST = re.compile(r"[0-9a-f]{64}")
_TODO = "publish it again with kanna fleet publish"
_PART = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFile:
    """A file of an artefact.

    Attributes:
        path: In the folder of its version, with `/`.
        sha256: Hexadecimal.
        size: In bytes.
    """

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetManifest:
    """What a manifest says.

    Attributes:
        data: Its bytes, as they were signed.
        name: For people.
        sequence: Larger than that of everything published before.
        artefact: Path of the model among the files.
        files: All of them.
    """

    data: bytes
    name: str
    sequence: int
    artefact: str
    files: tuple[FleetFile, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, by which it is named."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read(data: bytes, where: str) -> FleetManifest:
    """A manifest that came from elsewhere.

    Args:
        data: Its bytes.
        where: What to call it in messages.

    Raises:
        FormatError: It is no manifest.
        RefusedError: A path in it leads elsewhere.
    """
    if len(data) > LARGEST_MANIFEST:
        raise FormatError(f"{where} has {len(data)} bytes", expected=f"at most {LARGEST_MANIFEST}")
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{where} is no text: {error}", expected="JSON") from None
    values = TypedObject.of(parse_json(decoded, where), where, _TODO)
    if (kind := values.need("format", text(80))) != FORMAT:
        raise FormatError(f"{where} is {kind!r}", expected=FORMAT, todo=_TODO)
    files = tuple(
        FleetFile(
            path=one.need("path", text(1024, 1)),
            sha256=one.need("sha256", text(64, 64)),
            size=one.need("size", whole(0, LARGEST_FILE)),
        )
        for one in values.parts("files")
    )
    manifest = FleetManifest(
        data=data,
        name=values.need("name", text(200, 1)),
        sequence=values.need("sequence", whole(1, 1 << 53)),
        artefact=values.need("artefact", text(1024, 1)),
        files=files,
    )
    _check(manifest, where)
    return manifest


def _check(manifest: FleetManifest, where: str) -> None:
    """Refuse paths that leave the folder, that are there twice, or both a file and a folder."""
    if not 1 <= len(manifest.files) <= MOST_FILES:
        raise FormatError(f"{where} names {len(manifest.files)} files", expected="1 to 10,000")
    paths = [file.path for file in manifest.files]
    for file in manifest.files:
        if not DIGEST.fullmatch(file.sha256):
            raise FormatError(f"{where} has the hash {file.sha256!r}", expected="SHA-256 in hex")
        parts = file.path.split("/")
        if not all(_PART.fullmatch(part) and part.strip(". ") for part in parts):
            raise RefusedError(
                f"{where} names the file {file.path!r}", expected="a path inside its own folder"
            )
    folded = [path.casefold() for path in paths]  # some file systems know no case
    above = {
        "/".join(path.split("/")[:n]) for path in folded for n in range(1, path.count("/") + 1)
    }
    if len(set(folded)) < len(folded) or above & set(folded):
        raise RefusedError(f"{where} names a file twice", expected="every file once")
    if SELFTEST not in paths:
        raise FormatError(f"{where} has no {SELFTEST}", expected="a self-test", todo=_TODO)
    inside = (
        path == manifest.artefact or path.startswith(f"{manifest.artefact}/") for path in paths
    )
    if not any(inside):
        raise FormatError(f"{where} has no {manifest.artefact!r}", expected="the model it names")
