"""Packages, wheels, manifests and uploads as strangers send them: refused by name, in any state."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import kanna
from kanna import packaging
from kanna._util import distribution
from kanna.errors import GateError, KannaError
from kanna.packaging import bom, checksums, wheel
from kanna.serving.problems import ApiError
from kanna.serving.studio.uploads import UploadStore
from kanna.sources import ollama

BILLS = {
    "100,000 brackets": b"[" * 100_000,
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[1]",
    "wrong kinds": b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": 5}',
    "a number without end": b'{"version": ' + b"1" * 10_000 + b"}",
    "nothing": b"",
}


def _package(folder: Path, bill: bytes) -> Path:
    folder.mkdir()
    (folder / bom.FILE).write_bytes(bill)
    listed = checksums.checksums({bom.FILE: hashlib.sha256(bill).hexdigest()})
    (folder / checksums.FILE).write_text(listed)
    return folder


@pytest.mark.parametrize("name", BILLS)
def test_a_bill_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("cyclonedx")
    with pytest.raises(KannaError):
        packaging.check(_package(tmp_path / "package", BILLS[name]))


LISTS: dict[str, Callable[[Path], object]] = {
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\0" * 100),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a way up": lambda path: path.write_text("0" * 64 + "  ./../../etc/passwd\n"),
    "an escape": lambda path: path.write_text("0" * 64 + "  a\x1b[2J\n"),
}


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices are files on Linux and macOS")
@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_checksums_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    package = _package(tmp_path / "package", b"{}")
    (package / checksums.FILE).unlink()
    LISTS[name](package / checksums.FILE)
    with pytest.raises(KannaError):
        packaging.check(package)


def test_a_pipe_in_a_package_is_a_change(tmp_path: Path) -> None:
    package = _package(tmp_path / "package", b"{}")
    (package / bom.FILE).unlink()
    os.mkfifo(package / bom.FILE)
    with pytest.raises(GateError, match="not as it was packaged"):
        packaging.check(package)


def test_a_wheel_that_unpacks_to_a_gigabyte_is_read_as_far_as_a_wheel_goes(tmp_path: Path) -> None:
    path = tmp_path / f"{distribution.WHEEL_PREFIX}{kanna.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        about = f"{distribution.WHEEL_PREFIX}{kanna.__version__}.dist-info/METADATA"
        with archive.open(about, "w", force_zip64=True) as file:
            for _ in range(150):
                file.write(b"Name: stranger\n" * 70_000)
    tracemalloc.start()
    try:
        with pytest.raises(KannaError):
            wheel._check(path)  # pyright: ignore[reportPrivateUsage]
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("digest", ["model", "..", "sha256:..", "sha256:" + "G" * 64, "sha1:aa"])
def test_a_manifest_of_ollama_names_blobs_by_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    """Another name would be taken as it is: there is nothing that its content is held to."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    place = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
    place.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    place.write_text(json.dumps({"layers": [layer]}))
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / digest.replace(":", "-")).mkdir(exist_ok=True)
    (tmp_path / "blobs" / "model").touch() if digest == "model" else None
    with pytest.raises(KannaError, match="64 hexadecimal|is not there"):
        ollama.find("m")


async def _parts(data: bytes, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    yield data[:1]
    if then is not None:
        await then.wait()
    yield data[1:]


def test_a_file_that_is_sent_twice_at_once_is_no_mixture(tmp_path: Path) -> None:
    async def send() -> tuple[object, bytes]:
        store = UploadStore(tmp_path / "uploads", 1 << 20)
        upload = store.begin({"config.json": 4, "model.safetensors": 1})
        go = asyncio.Event()
        first = asyncio.create_task(store.receive(upload, "config.json", _parts(b"aaaa", go)))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await store.receive(upload, "config.json", _parts(b"bbbb"))
        go.set()
        await first
        return refused.value.status, (upload.folder / "config.json").read_bytes()

    assert asyncio.run(send()) == (409, b"aaaa")


def test_an_upload_that_is_abandoned_while_it_comes_ends(tmp_path: Path) -> None:
    async def send() -> SimpleNamespace:
        store = UploadStore(tmp_path / "uploads", 1 << 20)
        upload = store.begin({"config.json": 4, "model.safetensors": 1})
        go = asyncio.Event()
        first = asyncio.create_task(store.receive(upload, "config.json", _parts(b"aaaa", go)))
        await asyncio.sleep(0)
        store.abandon(upload)
        go.set()
        with pytest.raises(ApiError) as refused:
            await first
        return SimpleNamespace(status=refused.value.status)

    assert asyncio.run(send()).status == 404
    assert not list((tmp_path / "uploads").iterdir())
