"""The audit log: one line of JSON per request, whole and in order."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MOST_KEPT = 4 << 20
"""Bytes of lines that found no room and are kept; what comes then is lost."""


class AuditLog:
    """A file that lines are appended to.

    A disk that is full takes part of a line: what is left of it is kept and written first when
    there is room again. Where the file was moved away or removed, as programs that bound logs do,
    the next lines begin a new one under its name.

    Args:
        path: Of the file, which is made for its owner only when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._descriptor = self._opened()
        self._unwritten = bytearray()

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _follow_the_name(self) -> None:
        """Begin a new file where the name is no longer that of the old one."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return
        new = self._opened()
        os.close(self._descriptor)
        self._descriptor = new

    @property
    def waits(self) -> bool:
        """Whether there are lines that found no room."""
        return bool(self._unwritten)

    def write(self, lines: list[str]) -> None:
        """Append lines, after those that wait.

        Args:
            lines: Without their ends.

        Raises:
            OSError: There is no room; the lines are kept, as far as they may.
        """
        if lines and not self._unwritten:  # never in the middle of a line
            self._follow_the_name()
        for line in lines:
            data = line.encode("utf-8", "replace") + b"\n"
            if len(self._unwritten) + len(data) <= _MOST_KEPT:
                self._unwritten += data
        while self._unwritten:
            written = os.write(self._descriptor, self._unwritten)
            del self._unwritten[:written]

    def close(self) -> None:
        """Close the file; lines that still find no room are lost."""
        with suppress(OSError):
            self.write([])
        os.close(self._descriptor)
