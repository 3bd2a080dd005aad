"""Models in OCI registries by name, and those that were pulled to this machine.

No registry is asked here: `kanna pull` fetches, into kanna's cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kanna._util.folders import cache_folder
from kanna._util.typed import text
from kanna.errors import SourceError
from kanna.formats.text_files import read_object

SCHEME = "oci://"
FORM = "oci://HOST/NAME:TAG, or …@sha256:DIGEST"
DIGEST = re.compile("sha256:[0-9a-f]{64}")
_PORT = r"(?::[0-9]{1,5})?"
_HOST = re.compile(rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]){_PORT}")
_PART = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(f"{_PART}(?:/{_PART})*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class OciName:
    """The name of an artefact in a registry.

    Attributes:
        host: Of the registry, with its port where one is named.
        repository: Such as `team/model`.
        tag: Such as `v1`.
        digest: `sha256:…` of a manifest, where one is named; it counts, not the tag.
    """

    host: str
    repository: str
    tag: str = "latest"
    digest: str | None = None

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest or the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        after = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{SCHEME}{self.host}/{self.repository}{after}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledModel:
    """A model that was pulled.

    Attributes:
        name: As it was pulled.
        path: The file or folder.
        manifest: Digest of its manifest.
        record: The file that names it.
        variant: Which one of several, where there are.
    """

    name: OciName
    path: Path
    manifest: str
    record: Path
    variant: str | None = None


def parse(given: str) -> OciName:
    """Read the name of an artefact in a registry.

    Raises:
        SourceError: It is none.
    """
    rest = given.removeprefix(SCHEME)
    host, slash, name = rest.partition("/")
    name, at, digest = name.partition("@")
    repository, colon, tag = name.partition(":")
    valid = (
        bool(slash and _HOST.fullmatch(host) and _NAME.fullmatch(repository))
        and len(repository) <= _LONGEST_NAME
        and (not colon or bool(TAG.fullmatch(tag)))
        and (not at or bool(DIGEST.fullmatch(digest)))
    )
    if not valid:
        raise SourceError(
            f"{given!r} names nothing in a registry",
            expected=f"{FORM}; names are in lower case",
        )
    return OciName(host=host, repository=repository, tag=tag or "latest", digest=digest or None)


def folder() -> Path:
    """Where pulled models are kept."""
    return cache_folder() / "oci"


def record_of(name: OciName) -> Path:
    """The file that says what was pulled by that name last."""
    key = hashlib.sha256(str(name).encode()).hexdigest()[:32]
    return folder() / "names" / f"{key}.json"


def pulled() -> Iterator[PulledModel]:
    """Every model that was pulled and is still here."""
    names = folder() / "names"
    for record in sorted(names.glob("*.json")) if names.is_dir() else []:
        with suppress(SourceError, OSError):
            if (model := _read(record)) is not None:
                yield model


def path(given: str) -> Path:
    """Where a model that was pulled lies.

    Raises:
        SourceError: It was not pulled.
    """
    name = parse(given)
    record = record_of(name)
    model = _read(record) if record.is_file() else None
    if model is None:
        raise SourceError(f"{name} is not on this machine yet", todo=f"kanna pull {name}")
    return model.path


def _read(record: Path) -> PulledModel | None:
    fields = read_object(record)
    path = Path(fields.need("path", text()))
    if not path.exists():
        return None
    return PulledModel(
        name=parse(fields.need("reference", text())),
        path=path,
        manifest=fields.need("manifest", text()),
        record=record,
        variant=fields.get("variant", text(), None),
    )
