"""The SHA-256 of a file that grows, computed behind whoever writes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Condition, Thread

_SLICE = 1 << 20
"""Bytes that stay in a core's cache between the copy and the hash."""
_WORTH_WAKING = 8 << 20
_WRITTEN_OUT = 32 << 20


class FollowingHash:
    """A hash in a thread of its own, which nobody waits for before the end.

    What is hashed is read back from the file, so that it is what the file holds.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._digest = hashlib.sha256()
        self._size = self._hashed = self._unwritten = 0
        self._ended = False
        self._error: OSError | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def grown_to(self, size: int) -> None:
        """Say how many bytes of the file are there.

        Args:
            size: Not fewer than before.
        """
        with self._changed:
            self._size = size
            if size - self._hashed >= _WORTH_WAKING:
                self._changed.notify_all()

    def hexdigest(self) -> str:
        """The hash of all bytes that are there; waits for it.

        Raises:
            OSError: The file cannot be read.
        """
        with self._changed:
            self._changed.notify_all()
            while self._hashed < self._size and self._error is None:
                self._changed.wait(0.2)  # without a limit, Ctrl-C would not be seen on Windows
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._file.close()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_SLICE))
        while True:
            with self._changed:
                while self._hashed >= self._size and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                left = self._size - self._hashed
            try:
                count = self._file.readinto(buffer[: min(left, _SLICE)])
                if not count:
                    raise OSError(f"{self._file.name} was cut short while it was written")
                self._digest.update(buffer[:count])
                self._write_out(count)
            except OSError as error:
                self._error = error
                return
            with self._changed:
                self._hashed += count
                if self._hashed >= self._size:
                    self._changed.notify_all()

    def _write_out(self, count: int) -> None:
        """Have the system begin to write to the disk: little is left for the one sync at the end.

        More than one sync waits for whatever else is written on this machine, each time.
        """
        self._unwritten += count
        if self._unwritten >= _WRITTEN_OUT and hasattr(os, "posix_fadvise"):
            start = self._file.tell() - self._unwritten
            os.posix_fadvise(self._file.fileno(), start, self._unwritten, os.POSIX_FADV_DONTNEED)
            self._unwritten = 0
