"""`kanna push` and `kanna pull` of object stores: a shared folder, S3 and Azure Blob."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import needs, registries

import kanna
from kanna import gate_report
from kanna._util.digest import sha256
from kanna._util.folders import cache_folder
from kanna.errors import FormatError, GateError, RefusedError, SourceError, UsageError
from kanna.registry import stores
from kanna.registry.stores import ObjectStore


@pytest.fixture
def proved(tiny_gguf: Path, tmp_path: Path) -> Path:
    """A file with the report of a gate that it passed."""
    path = tmp_path / "tiny.gguf"
    shutil.copyfile(tiny_gguf, path)
    files = {path.name: sha256(path)}
    values = {"format": gate_report.FORMAT, "status": "proved", "files": files, "checks": []}
    gate_report.beside(path).write_text(json.dumps(values))
    return path


def there_and_back(address: str, path: Path) -> None:
    """Push twice, pull, and pull again."""
    first = kanna.push(address, path)
    assert first.variants[0].sent_bytes == path.stat().st_size
    assert kanna.push(address, path).variants[0].sent_bytes == 0, "nothing is sent twice"
    pulled = kanna.pull(address)
    assert Path(pulled.path).read_bytes() == path.read_bytes()
    assert (pulled.gate, pulled.signature) == ("proved", "none")
    assert pulled.revision == first.digest and pulled.fetched_bytes == path.stat().st_size
    assert kanna.pull(address).fetched_bytes == 0


def test_a_folder_that_is_shared(proved: Path, tmp_path: Path) -> None:
    there_and_back(f"file://{tmp_path}/shared/models", proved)
    with pytest.raises(SourceError, match="has no manifest.json"):
        kanna.pull(f"file://{tmp_path}/shared/other")
    with pytest.raises(UsageError, match="no variant"):
        kanna.pull(f"file://{tmp_path}/shared/models", variant="Q9")
    with pytest.raises(GateError, match="fits"):
        kanna.pull(f"file://{tmp_path}/shared/models", memory=1000)
    with pytest.raises(GateError, match="there is no signature"):
        kanna.pull(f"file://{tmp_path}/shared/models", key=proved)


def test_the_manifest_comes_last(
    proved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, put = f"file://{tmp_path}/shared", ObjectStore.put_bytes

    def broken(store: ObjectStore, data: bytes, place: str) -> None:
        if place == stores.MANIFEST:
            raise KeyboardInterrupt
        put(store, data, place)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put_bytes", broken)
        with pytest.raises(KeyboardInterrupt):
            kanna.push(address, proved)
    with pytest.raises(SourceError):
        kanna.pull(address)
    assert kanna.push(address, proved).variants[0].sent_bytes == 0


def test_a_pull_goes_on_and_holds_to_the_hash(proved: Path, tmp_path: Path) -> None:
    address = f"file://{tmp_path}/shared"
    kanna.push(address, proved)
    part = cache_folder() / "stores" / "parts" / f"{sha256(proved)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(proved.read_bytes()[:5000])
    assert kanna.pull(address).fetched_bytes == proved.stat().st_size - 5000
    [stored] = (tmp_path / "shared").rglob("*.gguf")
    data = stored.read_bytes()
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.rmtree(cache_folder() / "stores")
    with pytest.raises(RefusedError, match="other bytes"):
        kanna.pull(address)
    assert not list((cache_folder() / "stores").rglob("*.gguf"))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="other"),
        lambda v: v["variants"][0].update(name="../up"),
        lambda v: v["variants"][0].update(
            files={"../../x": v["variants"][0]["files"]["tiny.gguf"]}
        ),
        lambda v: v["variants"].clear(),
        lambda v: v.update(version="x"),
    ],
)
def test_manifests_of_strangers_are_checked(
    proved: Path, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    address = f"file://{tmp_path}/shared"
    kanna.push(address, proved)
    place = tmp_path / "shared" / "manifest.json"
    values = json.loads(place.read_text())
    change(values)
    place.write_text(json.dumps(values))
    with pytest.raises((FormatError, RefusedError)):
        kanna.pull(address)


@pytest.mark.slow
def test_s3(proved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against moto's server, which speaks the protocol of S3."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3  # pyright: ignore[reportMissingTypeStubs, reportMissingImports]

    port = registries.free_port()
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    running.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "of-a-test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="models")
        there_and_back("s3://models/team/tiny", proved)
        with pytest.raises(SourceError):
            kanna.pull("s3://no-such-bucket/x")
    finally:
        running.stop()


@pytest.mark.slow
def test_azure_blob(proved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against azurite, Microsoft's emulator."""
    program = needs.program("azurite-blob", install="npm install -g azurite")
    pytest.importorskip("adlfs")
    from azure.storage.blob import BlobServiceClient

    port = registries.free_port()
    words = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck"]
    process = subprocess.Popen(
        [*words, "--silent", "--inMemoryPersistence"],
        cwd=tmp_path,
        env=os.environ,
        stdout=subprocess.DEVNULL,
    )
    # The account and key that every azurite has, as its documentation names them.
    name, key = (
        "devstoreaccount1",
        (
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        ),
    )
    text = (
        f"DefaultEndpointsProtocol=http;AccountName={name};AccountKey={key};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{name};"
    )
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    try:
        client = BlobServiceClient.from_connection_string(text)
        for _ in range(60):
            with suppress(Exception):
                client.create_container("models")
                break
            time.sleep(0.5)
        there_and_back("az://models/team/tiny", proved)
    finally:
        process.terminate()
        process.wait(20)
