"""Blobs of a registry in files, by ranges: what was cut short goes on where it stopped."""

from __future__ import annotations

import errno
import io
import os
import re
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urljoin

from kanna import oci
from kanna._util import locks, own_files, verified
from kanna._util.disk import explain, sync_file
from kanna._util.progress import Progress
from kanna.errors import RefusedError, SourceError
from kanna.formats.patchwork import Patchwork
from kanna.registry import connection
from kanna.registry.client import RegistryRepository, wrong_digest
from kanna.registry.following_hash import FollowingHash
from kanna.registry.manifests import Descriptor

_SLICE = 1 << 20
PATIENCE = 0.2
"""Seconds to wait, times how often nothing came."""
_TRIES_WITHOUT_A_BYTE = 4
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def blob_path(descriptor: Descriptor) -> Path:
    """Where the blob of a digest is kept."""
    return oci.folder() / "sha256" / descriptor.hex


def fetch(
    repository: RegistryRepository,
    descriptor: Descriptor,
    progress: Progress,
    patchwork: Patchwork | None = None,
) -> tuple[Path, int]:
    """The file of a blob, fetched where it is not here yet, and of that digest; bytes that came.

    Args:
        repository: Where it is.
        descriptor: Which one.
        progress: Told of its bytes.
        patchwork: What other files here have of it.

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
                return path, 0
            path.unlink()  # it was changed since
        partial = path.with_name(f"{path.name}.part")
        try:
            fetched = _fill(_Filling(repository, descriptor, progress, patchwork), partial)
            sync_file(partial)
            partial.replace(path)
        except OSError as error:
            raise explain(error, path) from error
        except RefusedError:
            own_files.remove(partial)
            raise
    return path, fetched


def _fill(state: _Filling, partial: Path) -> int:
    """Fetch what a partial file lacks, hold the whole to its digest; returns bytes that came."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    wanted = state.descriptor
    with os.fdopen(os.open(partial, flags, 0o666), "r+b", buffering=0) as file:
        state.go_on_with(file, partial)
        try:
            state.fill()
            if state.digest.hexdigest() != wanted.hex and state.patchwork is not None:
                state.restart()  # the list of its pieces was about another file
                state.fill()
            if state.digest.hexdigest() != wanted.hex:
                raise wrong_digest(state.repository.name.host, wanted)
        finally:
            state.line.close()
            state.digest.close()
    return state.fetched


class _Filling:
    """A blob that is being written to a file."""

    def __init__(
        self,
        repository: RegistryRepository,
        descriptor: Descriptor,
        progress: Progress,
        patchwork: Patchwork | None,
    ) -> None:
        self.repository, self.descriptor = repository, descriptor
        self.progress, self.patchwork = progress, patchwork
        self.file: io.FileIO
        self.path: Path
        self.digest: FollowingHash
        self.url = f"{repository.url}/blobs/{descriptor.digest}"
        self.line = connection.open_connection(self.url)
        self.have = self.fetched = 0

    def go_on_with(self, file: io.FileIO, path: Path) -> None:
        """Take what an earlier run wrote to a file as the beginning, unless it is too much."""
        self.file, self.path, self.digest = file, path, FollowingHash(path)
        if (size := file.seek(0, os.SEEK_END)) > self.descriptor.size:
            size = file.truncate(0)
            file.seek(0)
        self._count(size)

    def fill(self) -> None:
        """Fetch the rest; raises when the registry sends nothing more of it."""
        idle = 0
        why: BaseException = ConnectionError("it ends its answers early")
        while self.have < self.descriptor.size or not self.descriptor.size:
            before = self.have
            try:
                self._take_what_is_here()
                if self.have < self.descriptor.size or not self.descriptor.size:
                    self._some()
            except connection.BROKEN as error:
                self.line.close()
                if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                    raise
                why = error
            if self.have == self.descriptor.size:
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

    def _take_what_is_here(self) -> None:
        """Write pieces that other files here have, up to the first that none has."""
        while self.patchwork is not None and self.have < self.descriptor.size:
            data = self.patchwork.here(self.have)
            if data is None:
                return
            self._write(data)
            self._count(len(data))

    def _some(self) -> None:
        """One answer, as far as it goes."""
        size = self.descriptor.size
        end = size if self.patchwork is None else self.patchwork.fetched_until(self.have)
        headers = {"Accept-Encoding": "identity"}
        if end < size:
            headers["Range"] = f"bytes={self.have}-{end - 1}"
        elif self.have:
            headers["Range"] = f"bytes={self.have}-"
        response = self.repository.begin(self.line, "GET", self.url, headers)
        if response.status in (301, 302, 303, 307, 308):
            target = self._elsewhere(self.url, response)
            with closing(connection.open_connection(target)) as other:
                answer = connection.send(other, "GET", target, headers)
                self._receive(answer, other, end)
        else:
            self._receive(response, self.line, end)
            if not response.isclosed():
                self.line.close()

    def _elsewhere(self, url: str, response: HTTPResponse) -> str:
        """Where a blob is instead: the same server, or a public store."""
        location = response.getheader("Location") or ""
        connection.read_small(response, "a redirect")
        target = urljoin(url, location)
        if connection.is_public_store(url, target):
            return target
        return connection.next_address(url, location, f"{self.descriptor.digest[:23]}…")

    def _receive(self, response: HTTPResponse, line: HTTPConnection, end: int) -> None:
        """Write what an answer holds, which is to end there."""
        host = self.repository.name.host
        if response.status == 404:
            raise SourceError(
                f"the registry {host} has no blob {self.descriptor.digest[:23]}…",
                expected="every file that the manifest names",
                todo="push the model again",
            )
        if response.status == 200 and (self.have or end < self.descriptor.size):
            self.restart()  # a registry that knows no ranges
            end = self.descriptor.size
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
        if announced and announced.isdigit() and int(announced) != end - self.have:
            raise RefusedError(
                f"the registry {host} announces {int(announced)} bytes of "
                f"{self.descriptor.digest[:23]}…",
                expected=f"{end - self.have}, as its manifest says",
            )
        if line.sock is not None:
            line.sock.settimeout(connection.ANSWER_SECONDS)
        buffer = memoryview(bytearray(_SLICE))
        while self.have < end and (count := response.readinto(buffer)):
            if self.have + count > end:
                raise RefusedError(
                    f"the registry {host} sends more than {end} bytes",
                    expected="as many as its manifest says",
                )
            self._write(buffer[:count])
            self._count(count)
            self.fetched += count

    def _write(self, data: memoryview | bytes) -> None:
        """Write all of some bytes: a system may take fewer at once."""
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) or 0 :]

    def restart(self) -> None:
        """Begin again, with everything from the registry."""
        self.digest.close()
        self.file.seek(0)
        self.file.truncate(0)
        self.progress.advance(-self.have)
        self.have, self.patchwork = 0, None
        self.digest = FollowingHash(self.path)

    def _count(self, count: int) -> None:
        self.have += count
        self.digest.grown_to(self.have)
        self.progress.advance(count)
