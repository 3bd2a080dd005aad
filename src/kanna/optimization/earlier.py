"""The file of an earlier run in the same folder: kept under its size, never replaced in silence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from kanna._util.units import format_size


@contextmanager
def kept(path: Path, note: Callable[[str], object]) -> Generator[None]:
    """Keep what lies at `path` if what is written there meanwhile has another size.

    Args:
        path: The file or folder that is about to be written.
        note: Gets a sentence about what became of the one that was there.
    """
    before = _bytes(path)
    aside = path.with_name(f"{path.stem}-{before}-bytes{path.suffix}")
    linked = False
    if before and path.is_file() and not aside.exists():
        # A second name of the same bytes: nothing is copied. Where the system has none, it is said.
        with contextlib.suppress(OSError):
            os.link(path, aside)
            linked = True
    try:
        yield
    except BaseException:
        if linked:
            aside.unlink(missing_ok=True)
        raise
    if not before or _bytes(path) == before:
        if linked:
            aside.unlink(missing_ok=True)
        return
    what = f"{path.name} of an earlier run ({format_size(before)})"
    if linked or aside.exists():
        note(f"{what} is now {aside.name}: this run wrote another of that name")
    else:
        note(f"{what} was replaced: give each size a folder of its own to keep both")


def _bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; 0 where there is nothing."""
    files = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
    return sum(p.stat().st_size for p in files if p.is_file())
