"""The disk takes a long file while it is written, and what it refuses is never lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kanna._util import disk


def test_the_disk_is_asked_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    asked = threading.Event()

    def fsync(handle: int) -> None:
        sizes.append(os.fstat(handle).st_size)
        asked.set()

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        (tmp_path / "file").open("wb", buffering=0) as file,
        disk.writing_behind(file.fileno(), 100) as wrote,
    ):
        wrote(file.write(bytes(60)))
        assert not sizes
        wrote(file.write(bytes(60)))
        assert asked.wait(10)
        wrote(file.write(bytes(60)))
    assert sizes == [120, 180]


def test_a_refusal_that_was_told_early_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([OSError(5, "Input/output error")])

    def fsync(handle: int) -> None:
        for error in answers:  # a system tells it once
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        (tmp_path / "file").open("wb", buffering=0) as file,
        pytest.raises(OSError, match="Input/output"),
        disk.writing_behind(file.fileno(), 10) as wrote,
    ):
        wrote(file.write(bytes(20)))


def test_what_others_tidy_away_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"12345")
    told = disk.states([tmp_path / "kept", tmp_path / "gone"])
    assert [(path.name, about.st_size) for path, about in told.items()] == [("kept", 5)]
    assert disk.folder_size(tmp_path) == 5 and disk.folder_size(tmp_path / "gone") == 0
