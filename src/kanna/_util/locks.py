"""One writer at a time: a lock beside what is written, which ends with the process that holds it.

The system gives the lock up when its process ends, however that ends, so none is ever in the way of
a later run. Over NFS Linux turns it into a lock of the server.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.uninterrupted import uninterrupted
from kanna.errors import OutputError

SUFFIX = ".kanna-lock"
_POLL = 0.1
"""Seconds between two tries to take a lock that is waited for."""
_UNABLE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@dataclass(slots=True)
class _Held:
    key: str
    descriptor: int
    thread: int
    count: int


_held: dict[str, _Held] = {}
_guard = threading.Lock()


@contextmanager
def holding(
    out: Path, doing: str, *, parents: bool = False, patience: float = 0.0
) -> Generator[None]:
    """Be the only one to write `out` for the length of the block.

    The same thread may ask again for what it holds.

    Args:
        out: The file or folder that is written.
        doing: What is done, for whoever is refused meanwhile: "convert", "optimize".
        parents: Whether `doing` makes the folders above the output.
        patience: Seconds to wait for whoever writes it.

    Raises:
        OutputError: Another process or thread writes it; the message names it.
    """
    made, mine, place = list[Path](), None, _place(out)
    deadline = time.monotonic() + patience
    try:
        # A signal that comes meanwhile is delivered at the end of this block, where the lock and
        # the folders are known and go again.
        while mine is None:
            try:
                with uninterrupted():
                    if parents:
                        made += _make_parents(out.absolute().parent)
                    mine = _hold(place, out, doing)
            except OutputError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL)
        yield
    finally:
        with uninterrupted():
            if mine is not None:
                _let_go(place, mine)
            _remove_empty(made)


def _hold(place: Path, out: Path, doing: str) -> _Held:
    """The lock at a place, taken or held once more; OutputError when another has it."""
    key = os.path.realpath(place)
    with _guard:
        mine = _held.get(key)
        if mine is None:
            descriptor = _acquire(place, out, doing)
            mine = _held[key] = _Held(key, descriptor, threading.get_ident(), 0)
        elif mine.thread != threading.get_ident():
            raise _taken(out, {"pid": os.getpid(), "doing": doing})
        mine.count += 1
        return mine


def _let_go(place: Path, mine: _Held) -> None:
    with _guard:
        mine.count -= 1
        if not mine.count:
            del _held[mine.key]
            _release(place, mine.descriptor)


def remove_stale(out: Path) -> None:
    """Remove the lock of a run that was killed, where an output that is there is left alone."""
    with suppress(OutputError), holding(out, "look at"):
        pass


def _make_parents(folder: Path) -> list[Path]:
    """Make the folders above an output, so that a lock can lie there; those that were not there."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Remove those folders again that nothing was written to, the deepest first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _place(out: Path) -> Path:
    """The lock of an output: beside it, or inside a folder whose own place takes no files."""
    out = out.absolute()
    if out.is_dir() and not os.access(out.parent, os.W_OK):
        return out / SUFFIX
    return out.with_name(f".{os.fsdecode(os.fsencode(out.name)[:200])}{SUFFIX}")


def _acquire(place: Path, out: Path, doing: str) -> int:
    """A descriptor with the lock; -1 where the file system has none, or takes no file at all."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    while True:
        try:
            descriptor = os.open(place, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OutputError(
                    f"{place} is a link", expected="a lock of kanna's", todo="remove it"
                ) from None
            return -1  # whoever writes there says why it cannot
        try:
            if not _try_lock(descriptor):
                raise _taken(out, _holder(descriptor))
            if _is_still(place, descriptor):
                _write_holder(descriptor, doing)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _UNABLE:
                return -1
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # of a run that ended between our two calls: it removed the file


def _release(place: Path, descriptor: int) -> None:
    if descriptor < 0:
        return
    with uninterrupted(), suppress(OSError):
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(descriptor)
            place.unlink(missing_ok=True)
        else:
            if _is_still(place, descriptor):
                place.unlink(missing_ok=True)
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Take the lock unless another has it."""
    if sys.platform == "win32":
        import msvcrt

        # A byte far behind what is read of the file: locked bytes cannot be read.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK):
            return False
        raise
    return True


def _is_still(place: Path, descriptor: int) -> bool:
    """Whether the file that is locked is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.lstat())
    except OSError:
        return False


def _write_holder(descriptor: int, doing: str) -> None:
    about = {"pid": os.getpid(), "host": socket.gethostname(), "doing": doing, "since": time.time()}
    with suppress(OSError):  # a full disk takes no words, and the lock holds without them
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(about).encode())


def _holder(descriptor: int) -> dict[str, Any]:
    """What the holder wrote of itself; {} where it did not yet."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        about: Any = json.loads(os.read(descriptor, 4096))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _taken(out: Path, about: dict[str, Any]) -> OutputError:
    """The refusal, which says who holds the lock."""
    who = "another process"
    if isinstance(pid := about.get("pid"), int):
        who = f"process {pid}" if pid != os.getpid() else "another thread of this process"
    if (host := about.get("host", socket.gethostname())) != socket.gethostname():
        who += f" on {host!r:.80}"
    if isinstance(doing := about.get("doing"), str) and doing.isprintable():
        who += f" (kanna {doing:.40})"
    if isinstance(since := about.get("since"), (int, float)) and since <= time.time():
        who += f", begun {int(time.time() - since)} s ago"
    return OutputError(
        f"{out} is being written by {who}",
        expected="one writer at a time",
        todo="wait for it, end it, or choose another name",
    )
