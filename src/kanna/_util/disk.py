"""What every writer of files asks of the disk, and what it means where the disk refuses."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from kanna.errors import OutputError

_BEHIND = 128 << 20
"""Bytes of a file that are written before the disk is asked to take them."""


def explain(error: OSError, path: Path) -> OutputError:
    """What the system's refusal to write `path` means for who asked for it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"the disk of {path} is full", todo="free some space, or write to another disk"
        )
    return OutputError(
        f"{path} cannot be written: {error.strerror or error}", todo="write to another folder"
    )


def states(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    """What the system tells of each path that is still there: others may tidy the same folder."""
    results: dict[Path, os.stat_result] = {}
    for path in paths:
        with suppress(FileNotFoundError):
            results[path] = path.stat()
    return results


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Paths that are still there, the one that was changed last before the others."""
    about = states(paths)
    return sorted(about, key=lambda path: about[path].st_mtime, reverse=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder, which need not be there."""
    results = states(folder.rglob("*"))
    return sum(about.st_size for about in results.values() if stat.S_ISREG(about.st_mode))


def sync_file(path: Path) -> None:
    """Have the bytes of a file on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing_behind(handle: int, every: int = _BEHIND) -> Generator[Callable[[int], None]]:
    """Have the disk take what is written to a file while more of it is computed.

    A system keeps gigabytes of a file in memory before it begins: whoever writes one and then syncs
    it waits for the disk when there is nothing left to compute. When the block ends without an
    error, all of the file is on the disk.

    Args:
        handle: The descriptor of the file.
        every: Bytes after which the disk is asked again, unless it is still at the last ones.

    Yields:
        What is told of every further count of bytes that are written; it raises OSError where the
        disk refused earlier ones.
    """
    written, asked = 0, None
    with ThreadPoolExecutor(1, "kanna-disk") as pool:

        def wrote(count: int) -> None:
            nonlocal written, asked
            written += count
            if written < every or (asked is not None and not asked.done()):
                return
            if asked is not None:
                asked.result()
            written, asked = 0, pool.submit(os.fsync, handle)

        yield wrote
    if asked is not None:  # a system tells a failure once, to whoever syncs first
        asked.result()
    os.fsync(handle)
