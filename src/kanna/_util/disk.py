"""What every writer of files asks of the disk, and what it means where the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kanna.errors import OutputError


def explain(error: OSError, path: Path) -> OutputError:
    """What the system's refusal to write `path` means for who asked for it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"the disk of {path} is full", todo="free some space, or write to another disk"
        )
    return OutputError(
        f"{path} cannot be written: {error.strerror or error}", todo="write to another folder"
    )


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
