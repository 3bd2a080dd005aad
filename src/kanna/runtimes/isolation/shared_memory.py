"""Memory that two processes share: logits are too many numbers for a pipe."""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from kanna.model import F32


class SharedMemory:
    """A file that is mapped in both processes and grows as it is needed.

    On Linux it has no name and lies in memory, whatever the size of /dev/shm; elsewhere it is a
    temporary file.
    """

    def __init__(self, descriptor: int, path: str = "") -> None:
        self._file, self._path = descriptor, path
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedMemory:
        """Empty memory."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("kanna-logits"))
        descriptor, path = tempfile.mkstemp(prefix="kanna-logits-")
        return cls(descriptor, path)

    @classmethod
    def attach(cls, name: str) -> SharedMemory:
        """The memory that another process calls `name`."""
        kind, _, place = name.partition(":")
        if kind == "descriptor":
            return cls(int(place))
        return cls(os.open(place, os.O_RDWR | getattr(os, "O_BINARY", 0)))

    @property
    def name(self) -> str:
        """What a child that inherits `inherited` attaches to."""
        return f"path:{self._path}" if self._path else f"descriptor:{self._file}"

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the child must inherit."""
        return () if self._path else (self._file,)

    def rows(self, count: int, columns: int) -> F32:
        """The first values as f32 [count, columns]; both processes see the same."""
        size = count * columns * 4
        if self._map is None or len(self._map) < size:
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            # The former mapping lives on as long as an array looks at it.
            self._map = mmap.mmap(self._file, os.fstat(self._file).st_size)
        flat = np.frombuffer(self._map, np.float32, count * columns)
        return flat.reshape(count, columns)

    def release(self) -> None:
        """Give the memory back to the system; arrays that look at it read zeros from then on."""
        if self._map is not None and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):
                self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Forget it, and remove the file if there is one."""
        self._map = None
        with suppress(OSError):
            os.close(self._file)
        if self._path:
            with suppress(OSError):
                Path(self._path).unlink()
