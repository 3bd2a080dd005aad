"""Files into blobs of a registry, in chunks: what was cut short goes on where the registry is."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing, suppress
from http.client import HTTPResponse
from pathlib import Path

from kanna import oci
from kanna._util.atomic import write_json
from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna.errors import ChangedError, OutputError, RefusedError
from kanna.registry import connection, manifests
from kanna.registry.client import RegistryRepository
from kanna.registry.connection import RegistryAnswer
from kanna.registry.file_part import FilePart
from kanna.registry.manifests import Descriptor

CHUNK = 1 << 30
"""Bytes of one request: a registry has them on the disk before it takes the next one."""
_CHUNK_AFTER_A_BREAK = 64 << 20
"""Of registries that forget what came before a connection broke, what is lost at most then."""
_TRIES_WITHOUT_A_BYTE = 5
_OCTETS = "application/octet-stream"


def has(repository: RegistryRepository, descriptor: Descriptor) -> bool:
    """Whether a registry has a blob already, of the right size."""
    answer = repository.ask("HEAD", f"{repository.url}/blobs/{descriptor.digest}")
    if answer.status == 404:
        return False
    if answer.status != 200:
        raise repository.refusal(answer, "a look at the blobs")
    size = answer.headers.get("content-length", "")
    return not size.isdigit() or int(size) == descriptor.size


def push_bytes(repository: RegistryRepository, data: bytes, media_type: str) -> Descriptor:
    """Write a small blob, unless it is there; returns its descriptor.

    Args:
        repository: Where.
        data: The blob.
        media_type: What it is.
    """
    descriptor = Descriptor(media_type=media_type, digest=manifests.digest_of(data), size=len(data))
    if has(repository, descriptor):
        return descriptor
    url = _begin(repository)
    answer = repository.ask("PUT", _closing(url, descriptor), {"Content-Type": _OCTETS}, data)
    if answer.status not in (201, 202, 204):
        raise repository.refusal(answer, "a blob")
    return descriptor


def push_file(
    repository: RegistryRepository, path: Path, descriptor: Descriptor, progress: Progress
) -> bool:
    """Write a file as a blob, unless it is there; returns whether anything was sent.

    Args:
        repository: Where.
        path: The file.
        descriptor: Its digest and size.
        progress: Told of its bytes.

    Raises:
        ChangedError: The file is not what was hashed.
        OutputError: The registry takes no more of it.
    """
    if has(repository, descriptor):
        # Of a run that ended between the last byte and this line.
        _note(repository, descriptor).unlink(missing_ok=True)
        progress.advance(descriptor.size)
        return False
    upload = _Upload(repository, path, descriptor, progress)
    upload.run()
    return True


def _note(repository: RegistryRepository, descriptor: Descriptor) -> Path:
    """The file that says where an unfinished upload of a blob goes on."""
    key = manifests.digest_of(f"{repository.url}\0{descriptor.digest}".encode())[7:39]
    return oci.folder() / "uploads" / f"{key}.json"


def _begin(repository: RegistryRepository) -> str:
    url = f"{repository.url}/blobs/uploads/"
    answer = repository.ask("POST", url, {"Content-Length": "0"})
    if answer.status != 202:
        raise repository.refusal(answer, "an upload")
    return connection.next_address(url, answer.headers.get("location", ""), "an upload")


def _closing(url: str, descriptor: Descriptor) -> str:
    return f"{url}{'&' if '?' in url else '?'}digest={descriptor.digest}"


class _Upload:
    """A file on its way into a blob."""

    def __init__(
        self, repository: RegistryRepository, path: Path, descriptor: Descriptor, progress: Progress
    ) -> None:
        self.repository, self.path, self.descriptor = repository, path, descriptor
        self.progress, self.sent, self.shown = progress, 0, 0
        self.note, self.url = _note(repository, descriptor), ""
        self.chunk = CHUNK

    def run(self) -> None:
        """Send the file, and have it held to its digest."""
        self._resume()
        idle = 0
        why: BaseException | str = "it takes no bytes"
        while self.sent < self.descriptor.size:
            before = self.sent
            try:
                self._chunk()
            except connection.BROKEN as error:
                if isinstance(error, FileNotFoundError):
                    raise ChangedError(f"{self.path} was removed while it was read") from error
                why = error
                self.chunk = min(self.chunk, _CHUNK_AFTER_A_BREAK)
                self._ask_where()
            idle = 0 if self.sent > before else idle + 1
            if idle >= _TRIES_WITHOUT_A_BYTE:
                raise OutputError(
                    f"the registry {self.repository.name.host} took {self.sent} of "
                    f"{self.descriptor.size} bytes of {self.path.name}: {why}",
                    todo="run the same command again: it goes on from there",
                )
            time.sleep(0.2 * idle)
        self._close()

    def _resume(self) -> None:
        """Go on with what an earlier run began, or begin."""
        with suppress(OSError, ValueError, TypeError, KeyError, RefusedError):
            earlier = json.loads(self.note.read_text(encoding="utf-8"))["url"]
            self.url = connection.next_address(self.repository.url, str(earlier), "an upload")
            if self._ask_where():
                return
        self._start()

    def _start(self) -> None:
        self.url, self.sent = _begin(self.repository), 0
        self._keep()
        self._show()

    def _keep(self) -> None:
        with suppress(OSError):
            self.note.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.note, {"url": self.url})

    def _ask_where(self) -> bool:
        """How far the registry is; an upload that it has forgotten begins again."""
        answer = self.repository.ask("GET", self.url)
        if answer.status not in (200, 202, 204):
            self._start()
            return True
        self._moved(answer)
        self._show()
        return True

    def _moved(self, answer: RegistryAnswer) -> None:
        """Take the next address and the place in the file from an answer."""
        if location := answer.headers.get("location"):
            self.url = connection.next_address(self.url, location, "an upload")
        reached = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("range", ""))
        end = int(reached[1]) + 1 if reached else 0
        if end == 1 and self.sent == 0:
            end = 0  # registries write 0-0 for nothing
        if end > self.descriptor.size:
            raise RefusedError(
                f"the registry {self.repository.name.host} has {end} bytes of {self.path.name}",
                expected=f"at most {self.descriptor.size}",
            )
        self.sent = end
        self._keep()

    def _chunk(self) -> None:
        """Send one chunk."""
        size = min(self.chunk, self.descriptor.size - self.sent)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(size),
            "Content-Range": f"{self.sent}-{self.sent + size - 1}",
        }
        with closing(connection.open_connection(self.url)) as line:
            part = FilePart(path=self.path, start=self.sent, size=size, each=self._count)
            response = self.repository.begin(line, "PATCH", self.url, headers, part)
            answer = _small(response)
        if answer.status >= 500 or answer.status in (404, 416):
            raise ConnectionError(f"HTTP {answer.status}")
        if answer.status not in (202, 204):
            raise self.repository.refusal(answer, self.path.name)
        expected = self.sent + size
        self._moved(answer)
        if "range" not in answer.headers:
            self.sent = expected

    def _count(self, count: int) -> None:
        self.shown += count
        self.progress.advance(count)

    def _show(self) -> None:
        """Have the bar show what the registry has."""
        self.progress.advance(self.sent - self.shown)
        self.shown = self.sent

    def _close(self) -> None:
        url = _closing(self.url, self.descriptor)
        answer = self.repository.ask("PUT", url, {"Content-Length": "0"})
        self.note.unlink(missing_ok=True)
        if answer.status in (201, 202, 204):
            return
        if answer.status == 400 and sha256(self.path) != self.descriptor.hex:
            raise ChangedError(f"{self.path} was changed while it was pushed", todo="push it again")
        raise self.repository.refusal(answer, self.path.name)


def _small(response: HTTPResponse) -> RegistryAnswer:
    body = connection.read_small(response, "the answer to an upload")
    return RegistryAnswer(
        status=response.status, headers=connection.headers_of(response), body=body
    )
