"""Answers of HTTP whose head is whole.

Python's own client takes the end of a connection for the end of the head: of an answer that was cut
there, a header may be missing, or be shorter than it was.
"""

from __future__ import annotations

import http.client
from typing import Any


class _HeadFile:
    """The file of an answer while its head is read."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(limit)
        if not line.endswith(b"\n") and not 0 <= limit <= len(line):
            raise http.client.RemoteDisconnected("the head of the answer was cut")
        return line

    def close(self) -> None:
        self._file.close()


class WholeAnswer(http.client.HTTPResponse):
    """An answer; RemoteDisconnected where its head was cut."""

    def begin(self) -> None:
        """Read the head."""
        file = self.fp
        head: Any = _HeadFile(file)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = file
