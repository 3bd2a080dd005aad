"""Object stores by fsspec: S3, Azure Blob, and folders that are shared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna._util import extras
from kanna._util.progress import Progress
from kanna._util.typed import TypedObject, text, whole
from kanna.errors import FormatError, KannaError, MissingError, OutputError, SourceError, UsageError
from kanna.formats.text_files import parse_json
from kanna.registry import manifests
from kanna.registry.connection import MOST_TEXT

FORM = "s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"
EXTRA = "cloud"
MANIFEST = "manifest.json"
FORMAT = "kanna.store/1"
_ADDRESS = re.compile(r"(s3|az|abfs|file)://[^\s?#]+")
_NEEDS = {"s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVariant:
    """One model of a manifest.

    Attributes:
        name: Among those of the manifest.
        memory: Bytes that it needs to run.
        files: SHA-256 and bytes by path.
    """

    name: str
    memory: int
    files: Mapping[str, tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreManifest:
    """What a prefix holds: it is written last, and names a folder that is not written again.

    Attributes:
        data: Its bytes.
        version: The folder.
        variants: The models in it.
    """

    data: bytes
    version: str
    variants: tuple[StoredVariant, ...] = field(default_factory=tuple[StoredVariant, ...])

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self.data).hexdigest()


def is_address(given: object) -> bool:
    """Whether that is the address of a prefix in an object store."""
    return isinstance(given, str) and given.split("://")[0] in {"s3", "az", "abfs", "file"}


class ObjectStore:
    """A prefix of an object store; log-ins are those of its own tools and variables.

    Args:
        address: `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `file:///FOLDER`.

    Raises:
        UsageError: It is no such address.
        MissingError: The extra `cloud` is not installed.
    """

    def __init__(self, address: str) -> None:
        match = _ADDRESS.fullmatch(address.rstrip("/"))
        if match is None:
            raise UsageError(f"{address} names no prefix of an object store", expected=FORM)
        needed = _NEEDS.get(match[1])
        if needed in extras.missing(EXTRA):
            raise MissingError(f"{match[1]}:// needs {needed}", todo=extras.command(EXTRA))
        from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs]

        self.address = match[0]
        try:
            # What others wrote meanwhile counts, not what was listed before.
            opened: Any = url_to_fs(
                self.address, use_listings_cache=False, skip_instance_cache=True
            )
        except Exception as error:  # whatever the library of a store raises
            raise self._explained(error, "opened") from error
        self._files, self._root = opened[0], str(opened[1]).rstrip("/")

    def size(self, place: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        try:
            return int(self._files.info(self._at(place))["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(error, "asked") from error

    def put(self, path: Path, place: str, progress: Progress) -> bool:
        """Write a file, unless one of its size is there; whether it was sent."""
        size = path.stat().st_size
        if self.size(place) == size:
            progress.advance(size)
            return False
        try:
            self._files.makedirs(self._at(place).rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), self._at(place), callback=_callback(progress))
        except Exception as error:
            raise self._explained(error, f"given {place}") from error
        if (there := self.size(place)) != size:
            raise OutputError(f"{self.address} has {there} bytes of {place}", expected=str(size))
        return True

    def put_bytes(self, data: bytes, place: str) -> None:
        """Write a small file."""
        try:
            self._files.makedirs(self._at(place).rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(self._at(place), data)
        except Exception as error:
            raise self._explained(error, f"given {place}") from error

    def read_small(self, place: str) -> bytes | None:
        """A small file; None where it is not there."""
        size = self.size(place)
        if size is None:
            return None
        if size > MOST_TEXT:
            raise FormatError(f"{place} has {size} bytes", expected=f"at most {MOST_TEXT}")
        return self.read(place, 0, size)

    def read(self, place: str, start: int, stop: int) -> bytes:
        """Bytes of a file.

        Args:
            place: Of the file.
            start: The first.
            stop: Behind the last.
        """
        try:
            return bytes(self._files.cat_file(self._at(place), start=start, end=stop))
        except FileNotFoundError as error:
            raise SourceError(f"{self.address} has no {place}", todo="push it again") from error
        except Exception as error:
            raise self._explained(error, f"asked for {place}") from error

    def manifest(self) -> StoreManifest:
        """What the prefix holds.

        Raises:
            SourceError: Nothing was pushed there.
        """
        data = self.read_small(MANIFEST)
        if data is None:
            raise SourceError(f"{self.address} has no {MANIFEST}", todo="push a model there first")
        return read_manifest(data, f"{self.address}/{MANIFEST}")

    def _at(self, place: str) -> str:
        return f"{self._root}/{place}"

    def _explained(self, error: Exception, what: str) -> KannaError:
        if isinstance(error, KannaError):
            return error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        return SourceError(
            f"{self.address} could not be {what}: {first}",
            expected="a store that answers, and a log-in that may do this",
            todo="check the name, the log-in and the network, then run the same command again",
        )


def _callback(progress: Progress) -> Any:
    from fsspec.callbacks import Callback  # pyright: ignore[reportMissingTypeStubs]

    class Told(Callback):
        def relative_update(self, inc: int = 1) -> None:
            progress.advance(inc)

    return Told()


def manifest_of(variants: tuple[StoredVariant, ...]) -> StoreManifest:
    """The manifest of models, in a folder that is named by what they are."""
    entries = [
        {
            "name": one.name,
            "memory": one.memory,
            "files": {p: {"sha256": h, "size": n} for p, (h, n) in sorted(one.files.items())},
        }
        for one in variants
    ]
    version = hashlib.sha256(manifests.encoded({"variants": entries})).hexdigest()
    data = manifests.encoded({"format": FORMAT, "version": version, "variants": entries})
    return read_manifest(data, "a manifest of kanna")


def read_manifest(data: bytes, what: str) -> StoreManifest:
    """A manifest that came from elsewhere.

    Args:
        data: Its bytes.
        what: Its name, for messages.

    Raises:
        FormatError: It is none.
        RefusedError: A path in it leads elsewhere.
    """
    values = TypedObject.of(parse_json(data.decode("utf-8", "replace"), what), what)
    if (kind := values.need("format", text(80))) != FORMAT:
        raise FormatError(f"{what} is {kind!r}", expected=FORMAT)
    version, variants = values.need("version", text(64)), list[StoredVariant]()
    for entry in values.parts("variants"):
        files: dict[str, tuple[str, int]] = {}
        listed_files = entry.part("files")
        for place in listed_files.values:
            manifests.check_place(place, files, what)
            one = listed_files.part(place)
            files[place] = (one.need("sha256", text(64)), one.need("size", whole(0, 1 << 44)))
        name, memory = entry.need("name", text(128)), entry.need("memory", whole(0, 1 << 53))
        variants.append(StoredVariant(name=name, memory=memory, files=files))
    hashes = [version, *(digest for one in variants for digest, _ in one.files.values())]
    if not all(map(_DIGEST.fullmatch, hashes)) or not all(
        one.files and _VARIANT.fullmatch(one.name) for one in variants
    ):
        raise FormatError(f"{what} names no files by their SHA-256", expected="each with its own")
    if not variants or len({one.name for one in variants}) < len(variants):
        raise FormatError(f"{what} has {len(variants)} models", expected="each by its own name")
    return StoreManifest(data=data, version=version, variants=tuple(variants))
