"""Files that are stored under the hash of their content: those of the hub's cache and of Ollama.

Such a file is held to its name before it is used. The hub names large files by their SHA-256 and
small ones by the SHA-1 that git gives a blob; snapshots are links to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from kanna._util import verified
from kanna._util.progress import Progress, Silent
from kanna.errors import RefusedError, SourceError

_NAME = re.compile(r"(?:sha256-)?([0-9a-f]{64}|[0-9a-f]{40})")
# What takes so long to hash that it is shown.
_SHOWN = 1 << 27


def check(
    paths: Iterable[Path],
    progress: Progress | None = None,
    published: Mapping[Path, str] | None = None,
) -> None:
    """Refuse files that are not what they are stored or published as.

    Args:
        paths: Files and folders; those that are not in such a store are left alone.
        progress: Where the time it takes is shown.
        published: Hashes that the hub names for files.

    Raises:
        SourceError: A file is not what its name says.
        RefusedError: A file of a snapshot is no link to a file of its repository.
    """
    wanted = dict(published or {})
    for path in paths:
        for file in _files_of(path):
            if name := _stored_as(file):
                wanted.setdefault(file, name)
    for file, digest in wanted.items():
        _compare(file, digest, progress or Silent())


def _files_of(path: Path) -> list[Path]:
    """The file, or the files of a folder that is in a snapshot."""
    if not path.is_dir():
        return [path]
    folder = path.resolve()
    return [p for p in folder.rglob("*") if not p.is_dir()] if _snapshot(folder) else []


def _snapshot(path: Path) -> Path | None:
    """The snapshot of a hub repository that a path is or is in."""
    for folder in (path, *path.parents):
        above = folder.parent
        if above.name == "snapshots" and above.parent.name.startswith("models--"):
            return folder
    return None


def _stored_as(path: Path) -> str | None:
    """The hash that a file is stored under; None where it is not stored by hash."""
    if not path.exists():
        return None  # what opens it says so
    snapshot = _snapshot(path.absolute())
    target = path.resolve()
    if snapshot is not None:
        _refuse_stray(path, target, snapshot)
    if target.parent.name != "blobs":
        return None
    name = _NAME.fullmatch(target.name)
    return name[1] if name else None


def _refuse_stray(path: Path, target: Path, snapshot: Path) -> None:
    """Refuse a file of a snapshot that is not a link into its repository, where links are used."""
    blobs = (snapshot.parent.parent / "blobs").resolve()
    linked = path.is_symlink()
    if target.parent == blobs or (not linked and not _has_links(snapshot)):
        return  # where a file system has no links, the hub's library copies
    how = "leads out of its repository" if linked else "is a file of its own"
    raise RefusedError(
        f"{path} {how}: the hub's library did not put it there",
        expected=f"a link to a file in {blobs}",
        todo=f"remove {path} and fetch the model again",
    )


def _has_links(snapshot: Path) -> bool:
    return any(p.is_symlink() for p in snapshot.rglob("*"))


def _compare(path: Path, digest: str, progress: Progress) -> None:
    target = path.resolve()
    size = target.stat().st_size
    if size >= _SHOWN:
        progress.start(f"check {path.name}", size)
    try:
        same = verified.holds(target, digest, progress.advance if size >= _SHOWN else None)
    finally:
        if size >= _SHOWN:
            progress.finish()
    if not same:
        raise SourceError(
            f"{path} is not what was fetched: its content has another hash than {digest[:16]}…",
            expected="the file as it was published",
            todo=f"remove {target} and fetch the model again",
        )
