"""A file that is read piece by piece, and must stay as it was when it was opened.

Nothing is mapped: a mapped file that somebody cuts short ends the process that reads it by a
signal, and one that is overwritten gives rows of two models.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import NoReturn

import numpy as np

from kanna._util.nearest import no_file
from kanna.errors import FormatError, SourceError
from kanna.formats.file_states import State, changed, refuse_change, state
from kanna.formats.text_files import refuse_stand_in
from kanna.model import U8

_FIRST = 512


class StoredFile:
    """One file, open until nobody holds it or a part of it.

    Args:
        path: The file.

    Attributes:
        path: Where it lies, whatever the working folder becomes.
        size: Its bytes.

    Raises:
        FormatError: It is empty, or a pointer of git-lfs or a web page in its place.
        SourceError: It is not there.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SourceError(no_file(path), todo="check the path")
        self.path, self._lock = path.absolute(), Lock()
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._handle = os.open(self.path, flags)
        weakref.finalize(self, os.close, self._handle)
        # Both are kept: some file systems number a file otherwise once it is open.
        self._opened, self._named = state(os.fstat(self._handle)), state(self.path.stat())
        self.size = self._opened[2]
        if self.size == 0:
            raise FormatError(f"{path} is empty", expected="a model file", todo="fetch it again")
        refuse_stand_in(self.read(0, min(_FIRST, self.size)).tobytes(), "the file")

    def part(self, start: int, stop: int) -> Part:
        """Bytes [start, stop), to be read when they are needed."""
        return Part(self, start, stop)

    def read(self, start: int, stop: int) -> U8:
        """Bytes [start, stop) as a new array.

        Raises:
            ChangedError: The file is not what it was when it was opened.
            SourceError: The system cannot read it.
        """
        array = np.empty(max(0, stop - start), np.uint8)
        view, done = array.data, 0
        try:
            while done < array.size:
                count = self._read_into(view[done:], start + done)
                if not count:
                    break
                done += count
        except OSError as error:
            self._refuse(error)
        self.check()  # afterwards, so that nothing that was read is newer than the check
        if done < array.size:
            raise changed(self.path, f"ended after {start + done} of {self.size} bytes")
        return array

    def check(self) -> None:
        """Raise ChangedError where the file, or what has its name now, is not what was opened."""
        try:
            refuse_change(self.path, self._opened, state(os.fstat(self._handle)))
            refuse_change(self.path, self._named, state(self.path.stat()))
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            raise changed(self.path, "was removed") from None
        raise SourceError(
            f"{self.path} cannot be read: {error.strerror or error}",
            todo="check the disk or the network it lies on, then run the command again",
        ) from error

    def _read_into(self, view: memoryview, at: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._handle, [view], at)
        with self._lock:  # Windows has neither, macOS has one of the two
            os.lseek(self._handle, at, os.SEEK_SET)
            data = os.read(self._handle, len(view))
        view[: len(data)] = data
        return len(data)


class Part:
    """Some bytes of a file, which are read each time they are asked for."""

    __slots__ = ("__weakref__", "_file", "size", "start")

    def __init__(self, file: StoredFile, start: int, stop: int) -> None:
        self._file, self.start, self.size = file, start, max(0, min(stop, file.size) - start)

    def read(self, start: int = 0, stop: int | None = None) -> U8:
        """Bytes [start, stop) of the part, all by default; see `StoredFile.read`."""
        stop = self.size if stop is None else min(stop, self.size)
        return self._file.read(self.start + start, self.start + stop)

    def tobytes(self) -> bytes:
        """All bytes of the part, as an array in memory gives them."""
        return self.read().tobytes()


_watched: ContextVar[dict[Path, State] | None] = ContextVar("watched", default=None)


@contextmanager
def watching(paths: Iterable[Path]) -> Generator[None, None, None]:
    """Within the block, `refuse_changes` looks at these files, and at those of blocks around it."""
    states = dict(_watched.get() or {})
    for path in paths:
        if path.is_file():
            states.setdefault(path.absolute(), state(path.stat()))
    token = _watched.set(states)
    try:
        yield
    finally:
        _watched.reset(token)


def refuse_changes() -> None:
    """Raise ChangedError when a watched file changed: what was made of it is of two versions."""
    for path, before in (_watched.get() or {}).items():
        try:
            now = state(path.stat())
        except FileNotFoundError:
            raise changed(path, "was removed") from None
        refuse_change(path, before, now)
