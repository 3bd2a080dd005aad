"""What runs on another machine for one step: its inputs come in, its files go out.

The machines of a cluster need no common disk. Inputs lie under a hash of their files, so that steps
on the same machine share them; a step writes below its key, so that a verb that was cut off goes on
there when it is started again on that machine.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna import __version__
from kanna._util import folders, own_files
from kanna._util.digest import sha256
from kanna._util.locks import holding
from kanna.errors import FormatError

CHUNK = 16 << 20
"""Bytes that travel at once."""
PATIENCE = 120.0
"""Seconds that a step waits for an earlier attempt at it to end here: one that was given up may
still be at work, when its machine did not answer in time."""
Perform = Callable[[Path, Mapping[str, str]], None]
"""Runs a step in a folder, given where what it reads lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFile:
    """A file that travels."""

    name: str
    bytes: int
    sha256: str


def sent_files(folder: Path) -> list[SentFile]:
    """The files of a folder; links are not followed."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [
        SentFile(
            name=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=sha256(path),
        )
        for path in files
    ]


class StepWorker:
    """The other end of a step, an actor of a cluster.

    Args:
        scratch: Folder for inputs and results; "" takes one in kanna's cache.
    """

    def __init__(self, scratch: str) -> None:
        root = Path(scratch).expanduser() if scratch else folders.cache_folder() / "steps"
        self._inputs, self._steps = root / "inputs", root / "steps"
        self._receiving: Path | None = None

    def about(self) -> dict[str, str]:
        """Where this is, and what runs here."""
        return {
            "kanna": __version__,
            "python": platform.python_version(),
            "machine": platform.node(),
            "pid": str(os.getpid()),
        }

    def holds(self, digest: str) -> bool:
        """Whether inputs of that hash are here; if not, they are awaited."""
        place = self._inputs / digest
        if place.is_dir():
            return True
        place.parent.mkdir(parents=True, exist_ok=True)
        own_files.sweep(place.parent)
        self._receiving = own_files.fresh_name(place)
        self._receiving.mkdir()
        return False

    def write(self, name: str, data: bytes) -> None:
        """Add bytes to a file of the inputs that come in."""
        assert self._receiving is not None
        path = self._receiving / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def received(self, digest: str, hashes: Mapping[str, str]) -> None:
        """Give inputs their name, when all of them are right.

        Raises:
            FormatError: A file is not what was sent.
        """
        assert self._receiving is not None
        try:
            for name, wanted in hashes.items():
                if sha256(self._receiving / name) != wanted:
                    raise FormatError(f"{name} changed on its way to {platform.node()}")
            own_files.put(self._receiving, self._inputs / digest)
        finally:
            own_files.remove(self._receiving)
            self._receiving = None

    def perform(
        self, work: Perform, key: str, step: str, places: Mapping[str, str]
    ) -> list[SentFile]:
        """Run a step.

        Args:
            work: The step.
            key: Of everything that decides what it makes.
            step: Name of its folder.
            places: What it reads, and where that lies below the inputs.

        Returns:
            The files that it made.

        Raises:
            OutputError: An earlier attempt at it does not end.
        """
        folder = self._folder(key, step)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with holding(folder, f"step {step}", patience=PATIENCE):
            work(folder, {name: str(self._inputs / place) for name, place in places.items()})
            return sent_files(folder)

    def read(self, key: str, name: str, offset: int) -> bytes:
        """Bytes of a file that a step made.

        Args:
            key: Of the step.
            name: The step and the file in its folder.
            offset: Where they begin.
        """
        with (self._steps / key / name).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK)

    def finish(self, key: str) -> None:
        """Remove what a step made."""
        own_files.remove(self._steps / key)

    def _folder(self, key: str, step: str) -> Path:
        return self._steps / key / step
