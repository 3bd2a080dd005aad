"""SHA-256 of files; of a source also ahead of time, beside the work that does not need it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Thread

# What is hashed in one call without Python's lock: long beside the time other threads may keep that
# lock.
_SLICE = 1 << 24

_Key = tuple[Path, int, int]
_begun: dict[_Key, _Ahead] = {}


def sha256(path: Path, each: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file.

    Waits for a hash that was begun. `each` is called with the bytes of every slice.
    """
    ahead = _begun.pop(_key(path), None) if _begun else None
    if ahead is None:
        return _hash(path, each)
    digest = ahead.result()
    if each:
        each(path.stat().st_size)
    return digest


def begin(paths: Iterable[Path]) -> None:
    """Start hashing those of `paths` that are files, one after another in a thread.

    `sha256` will wait for it.
    """
    new = {p: _Ahead() for p in paths if p.is_file() and _key(p) not in _begun}
    _begun.update({_key(p): ahead for p, ahead in new.items()})
    # A daemon, so that Ctrl-C and refusals do not wait for it.
    Thread(target=lambda: [ahead.run(p) for p, ahead in new.items()], daemon=True).start()


def _key(path: Path) -> _Key:
    """A file as it is now: when it is changed, what was begun is not its hash."""
    about = path.stat()
    return path.resolve(), about.st_size, about.st_mtime_ns


class _Ahead:
    def __init__(self) -> None:
        self._digest, self._done = "", Event()
        self._error: BaseException | None = None

    def run(self, path: Path) -> None:
        try:
            self._digest = _hash(path)
        except BaseException as error:
            self._error = error
        self._done.set()

    def result(self) -> str:
        while not self._done.wait(0.2):  # a wait without a limit would not see Ctrl-C on Windows
            pass
        if self._error is not None:
            raise self._error
        return self._digest


def _hash(path: Path, each: Callable[[int], None] | None = None) -> str:
    # Read, not mapped: a file that someone cuts short meanwhile gives another hash instead of
    # ending the process.
    digest, buffer = hashlib.sha256(), bytearray(min(_SLICE, path.stat().st_size) or 1)
    with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
        while done := file.readinto(view):
            digest.update(view[:done])
            if each:
                each(done)
    return digest.hexdigest()
