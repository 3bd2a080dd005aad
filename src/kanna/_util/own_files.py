"""Files and folders of ours that are not complete yet: fresh names, and what a killed run left.

A name says which process made it. So two runs never share one, nothing is written through a link
that lies in wait under a name that can be guessed, and what a dead process left is told from what a
living one works on.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kanna._util.uninterrupted import uninterrupted

PARTIAL = ".partial"
_OURS = re.compile(r"\.kanna-([0-9a-f]{8})-(\d+)-([0-9a-f]+)-[0-9a-f]{8}\.partial$")
_ABANDONED = 86_400.0
"""Seconds without a change after which what another machine left counts as left for good."""
_LONGEST = 150
"""Bytes of a final name that are repeated in a fresh one: file systems end at 255."""


@functools.cache
def _machine() -> str:
    """This machine, and the space of process ids that we see of it."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{socket.gethostname()}\0{space}".encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When a process was started, which tells it from a later one of its number; "" for none."""
    with suppress(OSError, IndexError):
        # In ticks since the machine was: a clock that is set changes nothing.
        return f"{int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]):x}"
    import psutil  # only where the system has no such file

    with suppress(psutil.Error):
        return f"{int(psutil.Process(pid).create_time()):x}"
    return ""


def fresh_name(path: Path) -> Path:
    """A name beside `path` that nobody else uses, for what becomes `path` when it is complete."""
    pid = os.getpid()
    start = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    mark = f"{_machine()}-{pid}-{_started(pid) or '0'}-{secrets.token_hex(4)}"
    return path.with_name(f"{start}.kanna-{mark}{PARTIAL}")


def create(path: Path) -> BinaryIO:
    """A new file to write, with the permissions of any; FileExistsError when something is there.

    A link counts as something: nothing is ever written through it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "w+b", buffering=0)


@contextmanager
def complete(path: Path) -> Generator[Path]:
    """A fresh name to write a file or a folder under, which is `path` when the block ends.

    On an error it is removed and `path` stays as it was. What ended processes left unfinished in
    the folder goes first: nobody else looks after a cache.
    """
    sweep(path.parent)
    partial = fresh_name(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        remove(partial)


@contextmanager
def scratch(folder: Path | None = None, label: str = "work") -> Generator[Path]:
    """A new folder for its owner only, gone with all its files when the block ends.

    Args:
        folder: Where it is made; None: where temporary files are.
        label: What its name begins with.
    """
    home = Path(tempfile.gettempdir()) if folder is None else folder
    sweep(home)
    path, made = fresh_name(home / f".{label}"), False
    try:
        with uninterrupted():  # a signal comes where the folder is known and goes again
            path.mkdir(mode=0o700)
            made = True
        yield path
    finally:
        if made:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder of ours, if it is there; a link alone goes, not what it names."""
    with uninterrupted(), suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def put(folder: Path, out: Path) -> None:
    """Give a complete folder its final name; an earlier one of that name is removed.

    Where the system can exchange two names in one step, one of both is there under the final name
    at any time, whatever ends the process; elsewhere the earlier one is moved away just before.
    """
    if not out.is_dir() or out.is_symlink():
        try:
            folder.replace(out)
            return
        except OSError:
            if not out.is_dir() or out.is_symlink():
                raise  # else another process has put one there meanwhile
    if _exchange(folder, out):
        remove(folder)
        return
    before = fresh_name(out)
    out.rename(before)
    try:
        folder.replace(out)
    except BaseException:
        before.rename(out)
        raise
    remove(before)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    import ctypes

    names = os.fsencode(first.absolute()), os.fsencode(second.absolute())
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "linux":
            here = ctypes.c_int(-100)  # AT_FDCWD
            swap = ctypes.c_uint(2)  # RENAME_EXCHANGE
            return library.renameat2(here, names[0], here, names[1], swap) == 0
        return library.renamex_np(*names, ctypes.c_uint(2)) == 0  # RENAME_SWAP
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False


def left_by_others(folder: Path, *, deep: bool = False) -> Iterator[Path]:
    """What processes that ended left unfinished in a folder.

    Args:
        folder: Where to look.
        deep: Also in the folders below it; links are not followed.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        match = _OURS.search(entry.name)
        if match is not None and not entry.is_symlink():
            if _is_stale(match, entry):
                yield Path(entry.path)
        elif deep and entry.is_dir(follow_symlinks=False):
            yield from left_by_others(Path(entry.path), deep=True)


def _is_stale(match: re.Match[str], entry: os.DirEntry[str]) -> bool:
    machine, pid, started = match.groups()
    if machine == _machine():
        return _started(int(pid)) != started
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED
    return False


def sweep(folder: Path, *, deep: bool = False) -> None:
    """Remove what processes that ended left unfinished in a folder; arguments as above."""
    for path in left_by_others(folder, deep=deep):
        remove(path)


def sweep_for(out: Path) -> None:
    """Remove what ended runs left of an output: beside it, in it, and as earlier versions named it.

    Call it where no other process can be writing the same output.
    """
    sweep(out.absolute().parent)
    if out.is_dir() and not out.is_symlink():
        sweep(out, deep=True)
    earlier = out.with_name(out.name + PARTIAL)
    with suppress(OSError):
        mode = earlier.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            remove(earlier)
