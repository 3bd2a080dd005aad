"""A file of an earlier run with another size stays; what is written is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanna.optimization import earlier


def run(path: Path, size: int) -> list[str]:
    """Notes of a run that writes so many bytes, as writers do: under another name first."""
    notes: list[str] = []
    with earlier.kept(path, notes.append):
        partial = path.with_name("partial")
        partial.write_bytes(b"x" * size)
        partial.replace(path)
    return notes


def test_another_size_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "m-optimized.gguf"
    assert run(path, 10) == []
    (note,) = run(path, 20)
    assert "m-optimized-10-bytes.gguf" in note
    assert path.stat().st_size == 20
    assert (tmp_path / "m-optimized-10-bytes.gguf").read_bytes() == b"x" * 10


def test_the_same_size_leaves_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "m-optimized.gguf"
    assert run(path, 10) == run(path, 10) == []
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_bytes(b"abc")
    notes: list[str] = []
    with earlier.kept(tmp_path / "m", notes.append):
        (tmp_path / "m" / "weights").write_bytes(b"abcd")
    assert "was replaced" in notes[0]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"abc")
    with pytest.raises(OSError), earlier.kept(path, print):  # noqa: PT011
        raise OSError
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
