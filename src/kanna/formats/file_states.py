"""What files are at one moment, to be held against what they are later.

A file that was checked and then replaced is one that nobody checked: whoever loads a model takes
the states of its files before the checks, and compares them once a runtime has read it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kanna.errors import ChangedError

_PART = re.compile(r"(.+)-\d{5}-of-(\d{5}\.\w+)")
"""The name of a part of a split file."""
State = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file."""


def state(about: os.stat_result) -> State:
    """The state that the system describes."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def changed(path: Path, problem: str) -> ChangedError:
    """The error of a file that did not stay as it was."""
    return ChangedError(
        f"{path} {problem} while it was read",
        expected="a file that stays as it is until its reader is done",
        todo="let whatever writes it finish, then run the command again",
    )


def refuse_change(path: Path, before: State, now: State) -> None:
    """Raise ChangedError where a file is not what it was."""
    if now == before:
        return
    if now[:2] != before[:2]:
        raise changed(path, "was replaced by another file")
    if now[2] != before[2]:
        how = "was cut" if now[2] < before[2] else "grew"
        raise changed(path, f"{how} from {before[2]} to {now[2]} bytes")
    raise changed(path, "was written to")


class FileStates:
    """The states of the files of a model, taken when it is made.

    Beside `State` it has the time at which the system last changed what it knows of a file: no
    program sets that one, and a file that is moved away and back has another.

    Args:
        paths: Files, the first of a split one for all, and folders for all in them that has no
            hidden name.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = [path.absolute() for path in paths]
        self._states = dict(self._look())

    def refuse_changes(self) -> None:
        """Raise ChangedError where a file is not what it was, is gone or was not there before."""
        now = dict(self._look())
        for path, (before, moment) in self._states.items():
            if path not in now:
                raise changed(path, "was removed")
            refuse_change(path, before, now[path][0])
            if moment != now[path][1]:
                raise changed(path, "was written to or moved")
        for path in now.keys() - self._states.keys():
            raise changed(path, "appeared")

    def _look(self) -> Iterable[tuple[Path, tuple[State, tuple[int, int]]]]:
        for given in self._paths:
            for path in _files(given):
                try:
                    own, about = path.lstat(), path.stat()
                except OSError:
                    continue  # whoever reads it says so
                # A link that leads elsewhere and back is another one each time.
                yield path, (state(about), (own.st_ctime_ns, about.st_ctime_ns))


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        yield path
        if (split := _PART.fullmatch(path.name)) is not None:
            for other in path.parent.iterdir():
                part = _PART.fullmatch(other.name)
                if part is not None and part.groups() == split.groups() and other != path:
                    yield other
        return
    for place, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))
