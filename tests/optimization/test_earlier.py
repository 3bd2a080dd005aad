"""A file of an earlier run with another size stays; what is written is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanna.formats import stream
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


def test_the_second_name_of_a_killed_run_goes(tmp_path: Path) -> None:
    path, aside = tmp_path / "m-optimized.gguf", tmp_path / "m-optimized-10-bytes.gguf"
    assert run(path, 10) == []
    aside.hardlink_to(path)
    assert run(path, 10) == []
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    aside.write_bytes(b"y" * 10)  # another file of that size
    assert run(path, 10) == []
    assert aside.read_bytes() == b"y" * 10 and path.read_bytes() == b"x" * 10


def test_other_bytes_of_the_same_size_are_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "m-optimized.gguf"
    path.write_bytes(b"y" * 10)
    (note,) = run(path, 10)
    assert "m-optimized-10-bytes.gguf" in note and path.read_bytes() == b"x" * 10
    assert (tmp_path / "m-optimized-10-bytes.gguf").read_bytes() == b"y" * 10


@pytest.mark.parametrize("content", [b"abcd", b"xyz"])
def test_an_earlier_folder_is_kept_whole(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "m-v0.5"
    (out / "deep").mkdir(parents=True)
    (out / "weights").write_bytes(b"abc")
    (out / "deep" / "config").write_bytes(b"{}")
    notes: list[str] = []
    with earlier.kept(out, notes.append), stream.replacing(out) as folder:
        folder.mkdir()
        (folder / "weights").write_bytes(content + b"{}")
    (note,) = notes
    assert "m-v0.5-5-bytes" in note
    assert (tmp_path / "m-v0.5-5-bytes" / "weights").read_bytes() == b"abc"
    assert (tmp_path / "m-v0.5-5-bytes" / "deep" / "config").read_bytes() == b"{}"
    assert [p.name for p in out.iterdir()] == ["weights"]
    assert {p.name for p in tmp_path.iterdir()} == {"m-v0.5", "m-v0.5-5-bytes"}


def test_the_same_folder_again_leaves_no_copy(tmp_path: Path) -> None:
    out, notes = tmp_path / "m", list[str]()
    for _ in range(2):
        with earlier.kept(out, notes.append), stream.replacing(out) as folder:
            folder.mkdir()
            (folder / "weights").write_bytes(b"abc")
    assert not notes and [p.name for p in tmp_path.iterdir()] == ["m"]


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
