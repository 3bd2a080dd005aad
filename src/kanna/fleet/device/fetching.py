"""Files of an artefact on their way to a device: by ranges, resumed, each held to its hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO

from kanna._util import own_files
from kanna._util.digest import sha256
from kanna._util.typed import TypedObject
from kanna.errors import KannaError, OutputError, RefusedError
from kanna.fleet.connection import AnswerError, FleetConnection, UnreachableError
from kanna.fleet.device.versions import DeviceFolder
from kanna.fleet.manifest import FleetFile, FleetManifest
from kanna.formats import cutting, pieces
from kanna.formats.patchwork import KnownPieces, Patchwork

_SLICE = 1 << 20
_ROOM = 16 << 20
"""Bytes of the disk that stay free."""
_IDLE_TRIES = 3
_WORTH = 1 << 20
"""Bytes of a file that is worth a list of its pieces."""


def fetch(connection: FleetConnection, home: DeviceFolder, described: FleetManifest) -> None:
    """Stage every file of a manifest.

    What a version here has already is not fetched again, nor the pieces of a large file that its
    files have, and what was cut short goes on where it stopped.

    Args:
        connection: To the server.
        home: The folder of the agent.
        described: Checked.

    Raises:
        OutputError: The disk has no room for it.
        RefusedError: The server sends something else.
        UnreachableError: It does not answer.
    """
    staged = home.staging / described.digest
    known = _known_files(home)
    missing = [f for f in described.files if not _is_staged(staged / f.path, f)]
    lacking = {f.sha256: f.size for f in missing if f.sha256 not in known}
    _check_room(home, lacking)
    try:
        for file in missing:
            target = staged / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            own_files.remove(target)
            if not _copied(known.get(file.sha256), target, file):
                work = _patchwork(connection, file, known)
                part = _fetched(connection, home.parts, file, work)
                part.replace(target)
                known[file.sha256] = target
    except (OSError, OutputError) as error:
        home.drop_parts()
        own_files.remove(staged)  # a device whose disk is full is not left so
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{home.folder} takes no more: {error}") from error


def _check_room(home: DeviceFolder, lacking: dict[str, int]) -> None:
    """Raise OutputError where the disk has no room for what is still to come."""
    begun = {digest: home.parts / f"{digest}.part" for digest in lacking}
    here = sum(part.stat().st_size for part in begun.values() if part.is_file())
    needed, free = sum(lacking.values()) - here, home.free()
    if lacking and needed + _ROOM > free:
        raise OutputError(
            f"{needed} bytes are to come, and {free} are free in {home.folder}",
            expected=f"{_ROOM} more than that",
        )


def _known_files(home: DeviceFolder) -> dict[str, Path]:
    """Files of the current version by their hashes."""
    digest = home.current()
    described = home.record(digest) if digest else None
    if described is None or digest is None:
        return {}
    return {file.sha256: home.version(digest) / file.path for file in described.files}


def _patchwork(
    connection: FleetConnection, file: FleetFile, known: dict[str, Path]
) -> Patchwork | None:
    """What files that are here have of a large one; None where nothing is known."""
    if file.size < _WORTH or not known:
        return None
    here = KnownPieces()
    with suppress(KannaError):  # of a server without them: everything is fetched
        what = f"the pieces of {file.path}"
        listed = TypedObject.of(connection.ask("GET", f"/v1/blobs/{file.sha256}/pieces"), what)
        wanted = pieces.read(listed.values, file.size, what)
        for path in set(known.values()):
            if path.stat().st_size >= _WORTH:
                here.add(path, cutting.cut(path))
        return Patchwork(wanted, here) if here else None
    return None


def _is_staged(path: Path, file: FleetFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


def _copied(source: Path | None, target: Path, file: FleetFile) -> bool:
    """Whether a file that is here could be used, checked before it is."""
    if source is None or not _is_staged(source, file):
        return False
    try:
        os.link(source, target)
    except OSError:  # no links there
        shutil.copyfile(source, target)
        with target.open("rb+") as copy:
            os.fsync(copy.fileno())
    return True


def _fetched(
    connection: FleetConnection, folder: Path, file: FleetFile, work: Patchwork | None
) -> Path:
    """A file as the manifest has it; a part that is damaged is fetched anew, once."""
    part = folder / f"{file.sha256}.part"
    with suppress(FileNotFoundError):
        if part.is_symlink() or part.stat().st_size > file.size:
            part.unlink()
    again = work is not None or (part.exists() and part.stat().st_size > 0)
    if _filled(connection, part, file, work):
        return part
    part.unlink()
    if again and _filled(connection, part, file, None):
        return part
    with suppress(FileNotFoundError):
        part.unlink()
    raise RefusedError(
        f"the server sent {file.path} with another hash", expected=f"SHA-256 {file.sha256}"
    )


def _filled(
    connection: FleetConnection, part: Path, file: FleetFile, work: Patchwork | None
) -> bool:
    """Fetch what a part lacks; whether the whole has its hash."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o644), "r+b", buffering=0) as opened:
        have = opened.seek(0, os.SEEK_END)
        idle = 0
        while have < file.size:
            before = have
            if work is not None and (data := work.here(have)) is not None:
                _write(opened, data)
                have += len(data)
                continue
            end = file.size if work is None else work.fetched_until(have)
            try:
                have = _some(connection, opened, file, have, end)
            except UnreachableError:
                have, idle = opened.seek(0, os.SEEK_END), idle + 1
                if idle >= _IDLE_TRIES:
                    raise
            idle = 0 if have > before else idle
        os.fsync(opened.fileno())
        digest = hashlib.sha256()
        opened.seek(0)
        while data := opened.read(_SLICE):
            digest.update(data)
    return digest.hexdigest() == file.sha256


def _some(
    connection: FleetConnection, opened: BinaryIO, file: FleetFile, have: int, end: int
) -> int:
    """Write one answer as far as it goes; bytes that are here then."""
    last = end - 1 if end < file.size else ""
    headers = {"Range": f"bytes={have}-{last}"} if have or last else {}
    try:
        with connection.begin("GET", f"/v1/blobs/{file.sha256}", headers=headers) as response:
            have = _begins_at(response, have)
            opened.seek(have)
            opened.truncate()
            before = have
            while data := response.read(_SLICE):
                have += len(data)
                if have > (end if response.status == 206 else file.size):
                    raise RefusedError(
                        f"the server sends more than {file.size} bytes of {file.path}"
                    )
                _write(opened, data)
            if have == before:
                raise UnreachableError(f"{connection.name} sends nothing of {file.path}")
            return have
    except AnswerError as error:
        if error.status == 404:
            raise RefusedError(f"the server has no {file.path}: {error.found}") from error
        raise


def _write(opened: BinaryIO, data: bytes) -> None:
    """Write all of some bytes; a disk that takes none is no fault of the network."""
    view = memoryview(data)
    try:
        while view.nbytes:
            view = view[opened.write(view) or 0 :]
    except OSError as error:
        raise OutputError(f"the disk takes no more: {error}") from error


def _begins_at(response: HTTPResponse, have: int) -> int:
    """Where an answer begins: where it was asked to, or at 0 for a server without ranges."""
    if response.status != 206:
        return 0
    start = re.match(r"bytes (\d+)-", response.getheader("Content-Range") or "")
    if start is None or int(start[1]) != have:
        raise RefusedError("the server sent another part of the file than it was asked for")
    return have
