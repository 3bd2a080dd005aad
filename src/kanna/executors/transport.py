"""Files of a step on their way: sent by hash where they are not yet, brought back and checked."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kanna._util import own_files
from kanna._util.digest import sha256
from kanna.errors import FormatError
from kanna.executors.pools import TaskInput
from kanna.executors.step_worker import CHUNK, SentFile


def send(given: TaskInput, call: Callable[..., Any]) -> str:
    """Send what a step reads; returns where it lies there, below the inputs.

    Args:
        given: What it reads.
        call: Calls a method of the worker by name.
    """
    folder = given.path.parent
    hashes = {name: _hash_of(folder / name) for name in given.files}
    lines = "".join(f"{name}\0{value}\n" for name, value in sorted(hashes.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    if not call("holds", digest):
        for name in given.files:
            _send_file(folder / name, name, call)
        call("received", digest, hashes)
    return f"{digest}/{given.path.name}"


def _hash_of(path: Path) -> str:
    about = path.stat()
    return _hash_as_it_was(path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_as_it_was(path: Path, _bytes: int, _changed: int) -> str:
    """The hash of a file, which every layer of a model would ask for again."""
    return sha256(path)


def _send_file(path: Path, name: str, call: Callable[..., Any]) -> None:
    with path.open("rb") as file:
        call("write", name, file.read(CHUNK))  # an empty file is one, too
        while data := file.read(CHUNK):
            call("write", name, data)


def bring(
    files: Sequence[SentFile], folder: Path, read: Callable[[str, int], bytes], step: str
) -> None:
    """Bring the files of a step to where they belong, all of them or none.

    Args:
        files: What it made.
        folder: Where they belong.
        read: Returns bytes of a file from an offset.
        step: Name of its folder there.

    Raises:
        FormatError: A file is not what the worker said.
    """
    work = own_files.fresh_name(folder)
    work.mkdir(parents=True)
    try:
        for file in files:
            if PurePosixPath(file.name).is_absolute() or ".." in PurePosixPath(file.name).parts:
                raise FormatError(f"a worker sent a file named {file.name!r}")
            _bring_file(file, work / file.name, read, step)
        own_files.put(work, folder)
    finally:
        own_files.remove(work)


def _bring_file(file: SentFile, path: Path, read: Callable[[str, int], bytes], step: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, offset = hashlib.sha256(), 0
    with path.open("xb") as out:
        while offset < file.bytes:
            data = read(f"{step}/{file.name}", offset)
            if not data:
                break
            whole.update(data)
            out.write(data)
            offset += len(data)
    if whole.hexdigest() != file.sha256:
        raise FormatError(f"{file.name} of {step} changed on its way from its machine")
