"""A source that is cut, written to or replaced while it is read: an error, nothing written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_models import make

import kanna
from kanna.errors import ChangedError
from kanna.formats import stored_file, stream
from kanna.formats.stored_file import StoredFile
from kanna.sources import open_source
from kanna.tokenizer import _json

SIZE = 1 << 20


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"other")
    os.utime(path, ns=(1, 1))  # the clock of a file system may be as coarse as the test is fast


def _replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)  # of the same size, contents and time
    other.replace(path)


CHANGES = {
    "cut": (_cut, "was cut from"),
    "emptied": (_empty, "was cut from"),
    "grown": (_grow, "grew from"),
    "written to": (_write_into, "was written to"),
    "replaced": (_replace, "was replaced by another file"),
    "removed": (Path.unlink, "was removed"),
}


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_between_two_reads_is_an_error_that_says_how(
    change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    file = StoredFile(path)
    part = file.part(100, SIZE)
    assert part.read(0, 10).tolist() == [0] * 10
    change(path)
    for read in (part.read, lambda: file.read(0, 1), file.check):
        with pytest.raises(ChangedError) as error:
            read()
        assert words in error.value.found and str(path) in error.value.found
        assert error.value.expected and error.value.todo


def test_parts_are_those_bytes_and_the_handle_is_closed_with_the_last_of_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights"
    data = np.arange(1000, dtype=np.uint8)
    path.write_bytes(data.tobytes())
    before = _open_files()
    part = StoredFile(path).part(10, 900)
    assert part.size == 890
    assert np.array_equal(part.read(5, 20), data[15:30])
    assert np.array_equal(part.read(), data[10:900])
    assert part.tobytes() == data[10:900].tobytes()
    assert _open_files() == before + 1
    del part
    assert _open_files() == before


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in every container that kanna reads."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "safetensors").mkdir()
    make("smollm", folder / "safetensors")
    kanna.convert(folder / "safetensors", folder / "model.gguf", encoding="f16")
    kanna.convert(folder / "safetensors", folder / "mlx", format="mlx", preset="q4")
    return folder


FILES = {
    "safetensors": ("safetensors", "model.safetensors"),
    "gguf": ("model.gguf", ""),
    "mlx": ("mlx", "model.safetensors"),
}
TO = {"gguf": ("gguf", "Q8_0"), "mlx": ("mlx", "q8"), "safetensors": ("safetensors", None)}
PAIRS = [
    pytest.param(source, to, change, id=f"{source} to {to}, {change}")
    for source, to, change in (
        ("safetensors", "gguf", "cut"),
        ("safetensors", "mlx", "written to"),
        ("safetensors", "safetensors", "replaced"),
        ("gguf", "gguf", "cut"),
        ("gguf", "gguf", "emptied"),
        ("mlx", "gguf", "cut"),
        ("mlx", "mlx", "grown"),
    )
]


@pytest.mark.parametrize(("source", "to", "change"), PAIRS)
def test_a_source_that_changes_in_the_middle_of_a_conversion_leaves_nothing(
    source: str,
    to: str,
    change: str,
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, weights = FILES[source]
    given = tmp_path / name
    copy = shutil.copytree if (sources / name).is_dir() else shutil.copy
    copy(sources / name, given)
    encode, blocks = stream.encode_rows, 0

    def interrupted(*args: object) -> object:
        nonlocal blocks
        blocks += 1
        if blocks == 5:
            CHANGES[change][0](given / weights if weights else given)
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "encode_rows", interrupted)
    (tmp_path / "out").mkdir()
    format, preset = TO[to]
    with pytest.raises(ChangedError, match=CHANGES[change][1]) as error:
        kanna.convert(given, tmp_path / "out" / "made", format=format, preset=preset, threads=1)
    assert error.value.exit_code == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_change_after_the_last_row_was_read_is_noticed_before_anything_has_its_name(
    name: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "model"
    shutil.copytree(sources / "safetensors", given)
    check = stored_file.refuse_changes

    def changed() -> None:
        _grow(given / name)
        check()

    monkeypatch.setattr(stored_file, "refuse_changes", changed)
    (tmp_path / "out").mkdir()
    with pytest.raises(ChangedError, match=name):
        kanna.convert(given, tmp_path / "out" / "made.gguf", encoding="f16")
    assert list((tmp_path / "out").iterdir()) == []


def test_merges_of_a_tokenizer_that_is_cut_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"merges": [' + ", ".join(['"a b"'] * 20_000) + "]}}")
    merges = _json.load(path)["model"]["merges"]
    batches = merges.lists()
    assert next(batches)
    _cut(path)
    with pytest.raises(ChangedError):
        list(batches)


def test_an_open_source_that_is_cut_is_an_error_in_whatever_reads_it(
    sources: Path, tmp_path: Path
) -> None:
    for name, weights in FILES.values():
        given = tmp_path / name
        copy = shutil.copytree if (sources / name).is_dir() else shutil.copy
        copy(sources / name, given)
        opened = open_source(given)
        tensor = next(t for t in opened.tensors.values() if len(t.shape) == 2)
        assert tensor.rows(0, 1).size
        _cut(given / weights if weights else given)
        for read in (tensor.rows, tensor.raw):
            with pytest.raises(ChangedError):
                read(0, 1)
