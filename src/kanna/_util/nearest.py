"""What somebody may have meant who wrote a name that is not known."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from kanna.errors import KannaError, NotFoundError

_MOST_ENTRIES = 10_000
"""Of a folder that are compared."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)` where a known name is like `name`, else nothing."""
    lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), lower, 1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def absent(path: str | os.PathLike[str]) -> str:
    """`PATH does not exist`, with what may have been meant, or the folder that is not there.

    Args:
        path: Where somebody looked for a file or a folder, and found nothing, or the other.
    """
    wanted = Path(path).expanduser()
    if wanted.exists():
        return f"{path} is a folder, not a file" if wanted.is_dir() else f"{path} is not a folder"
    given = f"{path} does not exist"
    try:
        with os.scandir(wanted.parent) as entries:
            beside = [entry.name for entry in islice(entries, _MOST_ENTRIES)]
    except OSError:
        missing = next((p for p in reversed(wanted.parents) if not p.exists()), None)
        return f"{given}: there is no folder {missing}" if missing is not None else given
    lower = {name.lower(): name for name in beside}
    close = get_close_matches(wanted.name.lower(), lower, 1)
    return f"{given} (did you mean {wanted.parent / lower[close[0]]}?)" if close else given


def no_file(path: Path) -> str:
    """Why there is no file at a path: it is a folder or the like, or nothing is there."""
    return f"{path} is not a file" if path.exists() else absent(path)


def unreadable(
    path: str | os.PathLike[str], error: OSError, kind: type[KannaError], **more: str
) -> KannaError:
    """The error to raise for a file that could not be read.

    Args:
        path: Of the file.
        error: What reading it raised.
        kind: Of the error, where there is a file; where there is none, it is a NotFoundError.
        more: What was expected, and what to do.
    """
    if isinstance(error, FileNotFoundError):
        return NotFoundError(absent(path), **more)
    return kind(f"{path} cannot be read: {error.strerror or error}", **more)
