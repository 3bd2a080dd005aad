"""Folders as one zip archive, made while it is sent: nothing of it is kept or written to a disk."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path

from kanna.serving.problems import ApiError

MAX_FILES = 1000
"""Files of an archive; a model has a few."""
AT_ONCE = 4
"""Archives that are sent at the same time."""
_PART = 1 << 20


def files_of(folder: Path) -> dict[str, Path]:
    """The files below a folder by their names in the archive, below the folder's own name.

    Links are left out: what they lead to was not made here.

    Args:
        folder: What is sent.

    Raises:
        ApiError: There are none, or too many.
    """
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink()]
    kept = [p for p in paths if not p.name.endswith(".partial")]
    if not kept:
        raise ApiError(404, "there are no such files", code="not_found")
    if len(kept) > MAX_FILES:
        raise ApiError(413, f"{len(kept)} files, an archive has {MAX_FILES} at most")
    return {f"{folder.name}/{p.relative_to(folder).as_posix()}": p for p in kept}


class _UnsentParts(io.RawIOBase):
    """Takes what the archive writes, for whoever sends it on."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def parts(files: Mapping[str, Path]) -> Generator[bytes]:
    """The archive, about a megabyte at a time.

    Nothing is compressed: weights do not get smaller.

    Args:
        files: By their names in the archive.
    """
    sink = _UnsentParts()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files.items():
            info = zipfile.ZipInfo.from_file(path, name)
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                while data := source.read(_PART):
                    target.write(data)
                    yield sink.take()
    yield sink.take()


class Archives:
    """Sends archives, a few at a time."""

    def __init__(self) -> None:
        self._running = 0

    def open(self, folder: Path) -> AsyncGenerator[bytes]:
        """Begin to send a folder.

        Args:
            folder: What is sent.

        Raises:
            ApiError: There is nothing, too much, or too many ask.
        """
        files = files_of(folder)
        if self._running >= AT_ONCE:
            raise ApiError(
                503,
                f"{self._running} archives are being sent",
                "server_error",
                todo="wait until one of them is there",
            )
        return self._send(files)

    async def _send(self, files: Mapping[str, Path]) -> AsyncGenerator[bytes]:
        self._running += 1
        made = parts(files)
        try:
            while (part := await asyncio.to_thread(next, made, None)) is not None:
                if part:
                    yield part
        finally:
            self._running -= 1
            made.close()
