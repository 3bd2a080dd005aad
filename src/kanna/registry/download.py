"""Blobs of a registry in files, by ranges: what was cut short goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urljoin

from kanna._util import locks, own_files, verified
from kanna._util.progress import Progress
from kanna.errors import RefusedError, SourceError
from kanna.formats.stream import explain, sync_file
from kanna.registry import connection
from kanna.registry.client import RegistryRepository, wrong_digest
from kanna.registry.modelpack import Descriptor
from kanna.sources import oci

SLICE = 1 << 20
_WRITTEN_OUT = 1 << 25
PATIENCE = 0.2
"""Seconds to wait, times how often nothing came."""
_TRIES_WITHOUT_A_BYTE = 4
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def blob_path(descriptor: Descriptor) -> Path:
    """Where the blob of a digest is kept."""
    return oci.folder() / "sha256" / descriptor.hex


def fetch(repository: RegistryRepository, descriptor: Descriptor, progress: Progress) -> Path:
    """The file of a blob, fetched where it is not here yet, and of that digest.

    Args:
        repository: Where it is.
        descriptor: Which one.
        progress: Told of its bytes.

    Raises:
        RefusedError: The registry sends something else.
        SourceError: It cannot be reached, or has no such blob.
        OutputError: The disk is full.
    """
    path = blob_path(descriptor)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locks.holding(path, "pull"):
        if path.is_file():
            if verified.holds(path, descriptor.hex):
                progress.advance(descriptor.size)
                return path
            path.unlink()  # it was changed since
        partial = path.with_name(f"{path.name}.part")
        try:
            _fill(repository, descriptor, partial, progress)
            sync_file(partial)
            partial.replace(path)
        except OSError as error:
            raise explain(error, path) from error
        except RefusedError:
            own_files.remove(partial)
            raise
    return path


def _fill(
    repository: RegistryRepository, descriptor: Descriptor, partial: Path, progress: Progress
) -> None:
    """Fetch what a partial file lacks, and hold the whole to its digest."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(partial, flags, 0o666), "r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > descriptor.size:
            file.truncate(0)
        state = _Filling(repository, descriptor, file, progress)
        state.hash_what_is_here()
        state.fill()
        if state.digest.hexdigest() != descriptor.hex:
            raise wrong_digest(repository.name.host, descriptor)


class _Filling:
    """A blob that is being written to a file."""

    def __init__(
        self,
        repository: RegistryRepository,
        descriptor: Descriptor,
        file: io.FileIO,
        progress: Progress,
    ) -> None:
        self.repository, self.descriptor = repository, descriptor
        self.file, self.progress = file, progress
        self.digest, self.have = hashlib.sha256(), 0
        self.buffers = [memoryview(bytearray(SLICE)) for _ in range(2)]
        self.hashing: Future[None] | None = None
        self.writing: Future[None] | None = None
        self.unwritten = 0

    def hash_what_is_here(self) -> None:
        """Hash what an earlier run wrote."""
        self.file.seek(0)
        while count := self.file.readinto(self.buffers[0]):
            self.digest.update(self.buffers[0][:count])
            self._count(count)

    def fill(self) -> None:
        """Fetch the rest; raises when the registry sends nothing more of it."""
        idle, url = 0, f"{self.repository.url}/blobs/{self.descriptor.digest}"
        why: BaseException = ConnectionError("it ends its answers early")
        while self.have < self.descriptor.size or not self.descriptor.size:
            before = self.have
            try:
                self._some(url)
            except connection.BROKEN as error:
                if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                    raise
                why = error
            if self.have == self.descriptor.size:
                self._wait()
                return
            idle = 0 if self.have > before else idle + 1
            if idle >= _TRIES_WITHOUT_A_BYTE:
                raise SourceError(
                    f"the registry {self.repository.name.host} sent {self.have} of "
                    f"{self.descriptor.size} bytes of {self.descriptor.digest[:23]}…: "
                    f"{str(why) or type(why).__name__}",
                    expected="the whole file",
                    todo="run the same command again: it goes on from there",
                )
            time.sleep(PATIENCE * idle)

    def _some(self, url: str) -> None:
        """One answer, as far as it goes."""
        headers = {"Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
        with closing(connection.open_connection(url)) as line:
            response = self.repository.begin(line, "GET", url, headers)
            if response.status in (301, 302, 303, 307, 308):
                target = self._elsewhere(url, response)
                with closing(connection.open_connection(target)) as other:
                    self._receive(connection.send(other, "GET", target, headers), other)
                return
            self._receive(response, line)

    def _elsewhere(self, url: str, response: HTTPResponse) -> str:
        """Where a blob is instead: the same server, or a public store."""
        location = response.getheader("Location") or ""
        connection.read_small(response, "a redirect")
        target = urljoin(url, location)
        if connection.is_public_store(url, target):
            return target
        return connection.next_address(url, location, f"{self.descriptor.digest[:23]}…")

    def _receive(self, response: HTTPResponse, line: HTTPConnection) -> None:
        """Write what an answer holds."""
        host, wanted = self.repository.name.host, self.descriptor.size
        if response.status == 404:
            raise SourceError(
                f"the registry {host} has no blob {self.descriptor.digest[:23]}…",
                expected="every file that the manifest names",
                todo="push the model again",
            )
        if response.status == 200 and self.have:
            self._restart()
        elif response.status == 206:
            start = re.match(r"bytes (\d+)-", response.getheader("Content-Range") or "")
            if start is None or int(start[1]) != self.have:
                raise RefusedError(
                    f"the registry {host} sent another part of the file than it was asked for",
                    expected=f"the bytes from {self.have} on",
                )
        elif response.status != 200:
            raise ConnectionError(f"HTTP {response.status}")
        announced = response.getheader("Content-Length")
        if announced and announced.isdigit() and int(announced) != wanted - self.have:
            raise RefusedError(
                f"the registry {host} announces {int(announced)} bytes of "
                f"{self.descriptor.digest[:23]}…",
                expected=f"{wanted - self.have}, as its manifest says",
            )
        if line.sock is not None:
            line.sock.settimeout(connection.ANSWER_SECONDS)
        with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as writer:
            while self.have < wanted and (count := response.readinto(self.buffers[0])):
                if self.have + count > wanted:
                    raise RefusedError(
                        f"the registry {host} sends more than {wanted} bytes",
                        expected="as many as its manifest says",
                    )
                self._wait()
                self.hashing = worker.submit(self._keep, self.buffers[0][:count])
                self.buffers.reverse()
                self._count(count)
                self._write_out(writer, count)
            self._wait()

    def _keep(self, data: memoryview) -> None:
        """Write and hash a slice, while the next one is received."""
        self.file.write(data)
        self.digest.update(data)

    def _write_out(self, writer: ThreadPoolExecutor, count: int) -> None:
        """Have the system begin to write to the disk: little is left for the one sync at the end.

        More than one sync waits for whatever else is written on this machine, each time.
        """
        self.unwritten += count
        busy = self.writing is not None and not self.writing.done()
        if self.unwritten < _WRITTEN_OUT or busy or not hasattr(os, "posix_fadvise"):
            return
        place = self.file.fileno(), self.have - self.unwritten, self.unwritten
        self.writing = writer.submit(os.posix_fadvise, *place, os.POSIX_FADV_DONTNEED)
        self.unwritten = 0

    def _wait(self) -> None:
        """Have the slice before written and hashed."""
        if self.hashing is not None:
            hashing, self.hashing = self.hashing, None
            hashing.result()

    def _restart(self) -> None:
        """Begin again, for a registry that knows no ranges."""
        self.file.seek(0)
        self.file.truncate(0)
        self.progress.advance(-self.have)
        self.digest, self.have = hashlib.sha256(), 0

    def _count(self, count: int) -> None:
        self.have += count
        self.progress.advance(count)
