"""The file of an earlier run in the same folder: kept under its size, never replaced in silence."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from kanna._util import own_files
from kanna._util.units import format_size


@contextmanager
def kept(path: Path, note: Callable[[str], object]) -> Generator[None]:
    """Keep what lies at `path` if other bytes are written there meanwhile.

    Args:
        path: The file or folder that is about to be written.
        note: Gets a sentence about what became of the one that was there.
    """
    before = _bytes(path)
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    aside = path.with_name(f"{stem}-{before}-bytes{suffix}")
    # A run that was killed in here may have left the second name.
    linked = bool(before) and (_same(path, aside) if aside.exists() else _link(path, aside))
    try:
        yield
    except BaseException:
        if linked and _same(path, aside):
            own_files.remove(aside)
        raise
    if not before:
        return
    if linked and _bytes(aside) != before:  # written in place, so that both names changed
        own_files.remove(aside)
        linked = False
    if _same(path, aside) if linked else _bytes(path) == before:
        if linked:
            own_files.remove(aside)
        return
    what = f"{path.name} of an earlier run ({format_size(before)})"
    if linked or aside.exists():
        note(f"{what} is now {aside.name}: this run wrote another of that name")
    else:
        note(f"{what} was replaced: give each size a folder of its own to keep both")


def _same(path: Path, other: Path) -> bool:
    """Whether two files, or all files of two folders, have the same bytes."""
    ours, theirs = _files(path), _files(other)
    return ours.keys() == theirs.keys() and all(
        file.samefile(theirs[name]) or filecmp.cmp(file, theirs[name], shallow=False)
        for name, file in ours.items()
    )


def _link(path: Path, aside: Path) -> bool:
    """Give the bytes of a file, or of all files of a folder, a second name: nothing is copied.

    False where the file system has no such names.
    """
    with contextlib.suppress(OSError), own_files.complete(aside) as partial:
        if path.is_file():
            os.link(path, partial)
        else:
            shutil.copytree(path, partial, copy_function=os.link)
        return True
    return False


def _files(path: Path) -> dict[str, Path]:
    """A file, or all files of a folder, by the name below it; {} where there is nothing."""
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return {p.relative_to(path).as_posix(): p for p in files if p.is_file()}


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in _files(path).values())
