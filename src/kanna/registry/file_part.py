"""A part of a file on its way into a connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kanna.errors import ChangedError

_SLICE = 1 << 20
_SYSTEM_SLICE = 16 << 20
"""Bytes that the system copies without us: few calls, and often enough for a bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A part of a file.

    Attributes:
        path: The file.
        start: Its first byte.
        size: Bytes of it.
        each: Called with the bytes of every slice that was sent.
    """

    path: Path
    start: int
    size: int
    each: Callable[[int], None]

    def send(self, line: socket.socket) -> None:
        """Send it; over a plain connection the system copies it straight from its cache.

        Raises:
            ChangedError: The file ends before the part does.
        """
        with self.path.open("rb", buffering=0) as file:
            left, plain = self.size, not isinstance(line, ssl.SSLSocket)
            buffer = memoryview(bytearray(0 if plain else min(_SLICE, left)))
            file.seek(self.start)
            while left:
                if plain:
                    at, count = self.start + self.size - left, min(_SYSTEM_SLICE, left)
                    sent = line.sendfile(file, at, count)
                else:
                    sent = file.readinto(buffer[:left]) or 0
                    line.sendall(buffer[:sent])
                if not sent:
                    raise ChangedError(f"{self.path} was cut short while it was read")
                left -= sent
                self.each(sent)
