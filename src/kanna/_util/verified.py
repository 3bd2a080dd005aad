"""Whether files are what they were: their hashes, computed anew only when something has changed.

A hash that was computed is kept in the cache folder, with the size, times and inode that the file
had then. The time of the last change of an inode cannot be set back, so that a file that was
written to is hashed again even when its name, size and date are those from before.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kanna._util import folders, own_files
from kanna._util.atomic import write_text
from kanna._util.digest import sha256
from kanna._util.disk import newest_first

_SLICE = 1 << 22
# Two changes within one tick of a file system's clock look like one.
_SETTLED = 0.05
_KEPT = 4000


def holds(path: Path, wanted: str, each: Callable[[int], None] | None = None) -> bool:
    """Whether a file has that hash.

    Args:
        path: A file.
        wanted: 64 hexadecimal digits for SHA-256, 40 for the SHA-1 of a blob of git.
        each: Called with the bytes of every slice that is hashed.
    """
    kind = "git" if len(wanted) == 40 else "sha256"
    return _digest(path, kind, each) == wanted.lower()


def digest(path: Path, each: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, computed when it is not the one it was computed of last.

    Args:
        path: A file.
        each: Called with the bytes of every slice that is hashed.
    """
    return _digest(path, "sha256", each)


def record(path: Path, final: Path) -> None:
    """Note what a file, or all files below a folder, are now: `unchanged` compares with it.

    Args:
        path: Where it was made.
        final: The name that it gets next.
    """
    files = {name: sha256(file) for name, file in _files(path).items()}
    with suppress(OSError):
        _write(_place(final, "made"), {"path": str(final), "files": files})


def keep(path: Path, text: str) -> None:
    """Write a small file of the cache as `write_text` does, and record it.

    Args:
        path: The file.
        text: What it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with own_files.complete(path) as made:
        write_text(made, text)
        record(made, path)


def unchanged(path: Path) -> bool | None:
    """Whether a file or folder is as it was recorded; None where it was not, or is not there."""
    note = _read(_place(path, "made"))
    if note is None or not path.exists():
        return None
    files = _files(path)
    return note.get("files") == {name: _digest(file, "sha256") for name, file in files.items()}


def touch(path: Path) -> None:
    """Give a file that holds the time of now, without the need to hash it again."""
    place = _place(path, "sha256")
    note = _read(place)
    known = note is not None and note.get("stamp") == _stamp(path)
    with suppress(OSError):
        os.utime(path)
        if known and note is not None:
            _write(place, note | {"stamp": _stamp(path)})


def _files(path: Path) -> dict[str, Path]:
    """Files by name below a folder; a file itself has none."""
    if not path.is_dir():
        return {"": path}
    return {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if not p.is_dir()}


def _digest(path: Path, kind: str, each: Callable[[int], None] | None = None) -> str:
    """The hash of a file, as it was kept or computed."""
    place, stamp = _place(path, kind), _stamp(path)
    note = _read(place)
    if note is not None and note.get("stamp") == stamp:
        return str(note.get("digest"))
    since = time.time() - path.stat().st_ctime
    if 0 <= since < _SETTLED:
        time.sleep(_SETTLED - since)
    digest = sha256(path, each) if kind == "sha256" else _git_blob(path, each)
    if _stamp(path) == stamp:  # else it changed meanwhile
        with suppress(OSError):
            _write(place, {"path": str(path), "stamp": stamp, "digest": digest})
    return digest


def _git_blob(path: Path, each: Callable[[int], None] | None) -> str:
    """SHA-1 of a file as git names its content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_SLICE):
            digest.update(data)
            if each:
                each(len(data))
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev]


def _place(path: Path, kind: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return folders.own_cache_folder() / "verified" / f"{name}.{kind}.json"


def _read(place: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _write(place: Path, note: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    notes = [*place.parent.glob("*.json")]
    if len(notes) > _KEPT:
        for old in newest_first(notes)[-(_KEPT // 2) :]:
            old.unlink(missing_ok=True)
    write_text(place, json.dumps(note))
