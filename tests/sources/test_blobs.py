"""Files stored by their hash are held to it: the hub's cache, Ollama's store, links and copies."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ollama_store, stub_hub, tiny_models

import kanna
from kanna import sources
from kanna._util import verified
from kanna.errors import KannaError

REPO = "maker/tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tiny_models.make("llama", folder)
    tiny_models.write_tokenizer("qwen2", folder, 512)
    return folder


@pytest.fixture
def hub(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[stub_hub.Hub]:
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "made"
    shutil.copytree(checkpoint, folder)
    with stub_hub.serving() as served:
        stub_hub.use(served, tmp_path / "hf", monkeypatch)
        served.add(REPO, folder)
        yield served


def _snapshot(tmp_path: Path) -> Path:
    [snapshot] = (tmp_path / "hf").glob("models--*/snapshots/*")
    return snapshot


def _flip(path: Path) -> None:
    """Change one byte in place, and set the date back."""
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(about.st_size // 2)
        byte = file.read(1)
        file.seek(about.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def _copied(path: Path) -> None:
    """A file of its own in place of the link."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def _led_out(path: Path) -> None:
    other = path.parents[5] / "elsewhere"
    other.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(other)


@pytest.mark.skipif(os.name == "nt", reason="the hub's library copies there")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", [_flip, _copied, _led_out])
@pytest.mark.parametrize("way", ["online", "offline", "path"])
@pytest.mark.usefixtures("hub")
def test_a_changed_file_of_the_cache_is_refused(
    name: str, how: object, way: str, tmp_path: Path
) -> None:
    assert callable(how)
    assert sources.open_source(REPO).tensors
    snapshot = _snapshot(tmp_path)
    how(snapshot / name if how is not _flip else (snapshot / name).resolve())
    wanted = str(snapshot) if way == "path" else REPO
    for call in (sources.open_source, sources.locate):
        with pytest.raises(
            KannaError, match=r"not what was fetched|did not put it there|leads outside"
        ):
            call(wanted, offline=way == "offline")


@pytest.mark.usefixtures("hub")
def test_what_is_as_it_was_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.open_source(REPO)
    hashed: list[Path] = []
    real = verified.sha256
    monkeypatch.setattr(verified, "sha256", lambda p, *a: hashed.append(p) or real(p, *a))
    for offline in (True, False):
        assert sources.open_source(REPO, offline=offline).tensors
    assert hashed == []
    _flip((_snapshot(tmp_path) / "model.safetensors").resolve())
    with pytest.raises(KannaError):
        sources.open_source(REPO, offline=True)
    assert len(hashed) == 1


def test_names_of_git_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub names small files by the SHA-1 of a blob of git."""
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    assert verified.holds(path, "ce013625030ba8dba906f756967f9e9ca394464a")
    assert not verified.holds(path, hashlib.sha1(b"hello\n").hexdigest())
    assert verified.holds(path, hashlib.sha256(b"hello\n").hexdigest())
    _flip(path)
    assert not verified.holds(path, "ce013625030ba8dba906f756967f9e9ca394464a")


def test_a_changed_blob_of_ollama_is_refused(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KANNA_CACHE", str(tmp_path / "cache"))
    ollama_store.make(tmp_path / "store", tiny_gguf, monkeypatch)
    name = f"ollama:{next(iter(sources.ollama.models())).name}"
    assert sources.open_source(name).tensors
    _flip(sources.ollama.find(name.partition(":")[2]).blob)
    with pytest.raises(KannaError, match="not what was fetched"):
        kanna.inspect(name)
