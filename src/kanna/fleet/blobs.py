"""Files of artefacts by their hashes: received in slices, served by ranges."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from threading import Lock

from kanna._util.atomic import write_text
from kanna._util.digest import sha256
from kanna.errors import OutputError, RefusedError, UsageError
from kanna.formats import cutting

SLICE = 8 << 20
"""Bytes that are sent at a time."""
_ROOM = 64 << 20
"""Bytes of the disk that stay free."""


class BlobFolder:
    """A folder with a file per hash.

    Args:
        folder: Made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cutting = Lock()  # many devices ask at once, when something new is rolled out
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the file of a hash is, if it is here."""
        return self.folder / digest

    def have(self, digest: str) -> tuple[int, bool]:
        """Bytes of it that are here, and whether that is all."""
        if self.path(digest).is_file():
            return self.path(digest).stat().st_size, True
        part = self._part(digest)
        return (part.stat().st_size if part.is_file() else 0), False

    def append(self, digest: str, size: int, offset: int, data: bytes) -> tuple[int, bool]:
        """Add the next bytes of a file; complete, it is held to its hash.

        Args:
            digest: Its hash.
            size: Of the whole, in bytes.
            offset: Where the bytes belong.
            data: The bytes.

        Returns:
            Bytes of it that are here, and whether that is all.

        Raises:
            UsageError: They belong elsewhere.
            RefusedError: The whole is another file.
            OutputError: The disk is full.
        """
        here, complete = self.have(digest)
        if complete:
            return here, True
        if offset != here or offset + len(data) > size:
            raise UsageError(
                f"{len(data)} bytes at {offset} of {size}", expected=f"those from {here} on"
            )
        free = shutil.disk_usage(self.folder).free
        if free < size - here + _ROOM:
            raise OutputError(
                f"{free} bytes are free here, and {size - here} are to come",
                todo="free some disk space on the server",
            )
        part = self._part(digest)
        with part.open("ab") as file:
            file.write(data)
            file.flush()
            if offset + len(data) == size:
                os.fsync(file.fileno())
        if offset + len(data) < size:
            return offset + len(data), False
        if sha256(part) != digest:
            part.unlink()
            raise RefusedError("the file has another hash", expected=digest, todo="send it again")
        part.replace(self.path(digest))
        return size, True

    def pieces(self, digest: str) -> str:
        """What a file was cut into, as JSON, kept beside it; nothing of one that is not here."""
        if not self.path(digest).is_file():
            return "{}"
        kept = self.folder / f"{digest}.pieces.json"
        with self._cutting:
            if not kept.is_file():
                write_text(kept, json.dumps(cutting.cut(self.path(digest)).to_dict()))
        return kept.read_text(encoding="utf-8")

    def _part(self, digest: str) -> Path:
        return self.folder / f"{digest}.part"
