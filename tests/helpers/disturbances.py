"""What goes wrong around a gateway: its disk fills, its clock jumps, its database is locked."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import needs

_LIBRARY = "faketime/libfaketimeMT.so.1"


@contextmanager
def small_disk(folder: Path, size: str) -> Generator[Path]:
    """A file system of its own in `folder`, which root alone can mount; else skip the test."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if not mount or os.geteuid() or subprocess.run([mount, *options], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, seconds: float) -> None:
    """Leave no byte of a disk for some seconds."""
    filler = folder / "filler"
    try:
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for part in (1 << 20, 4096, 1):
                    with suppress(OSError):
                        while os.write(descriptor, b"\0" * part):
                            pass
                time.sleep(0.05)  # what others free is taken, too
        finally:
            os.close(descriptor)
    finally:
        filler.unlink(missing_ok=True)


def is_full(folder: Path) -> bool:
    """Whether a byte more finds no room."""
    probe = folder / "probe"
    try:
        probe.write_bytes(b"x")
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        probe.unlink(missing_ok=True)
    return False


@dataclass
class Clock:
    """The time of day that a process and its children see; the monotonic clock is the machine's.

    Attributes:
        file: Which libfaketime reads.
        environment: Of the process.
    """

    file: Path
    environment: dict[str, str]

    def move(self, seconds: float) -> None:
        """Set it before or after the machine's."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}")
        fresh.replace(self.file)


def clock(folder: Path) -> Clock:
    """A clock that can be moved while its process runs."""
    places = sorted(Path("/usr/lib").glob(f"*/{_LIBRARY}"))
    if not places:
        needs.absent("needs libfaketime", "faketime")
    moved = Clock(
        folder / "clock",
        {
            "LD_PRELOAD": str(places[0]),
            "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
        },
    )
    moved.move(0)
    return moved


def lock(database: Path, seconds: float) -> None:
    """Hold the lock of those who write."""
    connection = sqlite3.connect(database, timeout=5)
    with closing(connection), suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        connection.rollback()
