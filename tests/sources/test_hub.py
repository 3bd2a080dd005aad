"""Hub ids, against a stub hub on loopback.

What is asked for, what is refused early, and how it goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.stub_hub import Hub, serving
from safetensors.numpy import load_file, save_file

import kanna

pytest.importorskip("transformers")
from helpers import tiny_models  # noqa: E402

REPO = "owner/tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hub") / "tiny"
    tiny_models.make("llama", made)
    return made


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


class Shell:
    """Runs kanna as a user would, with the stub as its hub and a cache of its own."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home = home
        self.environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "*",
        }

    def __call__(
        self, *words: str, piece: int = 1 << 24, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        code = (
            f"import kanna.sources.hub; kanna.sources.hub._PIECE = {piece}; "
            "from kanna.cli.main import cli; cli()"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=self.home,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def kanna_cli(tmp_path: Path, hub: Hub) -> Shell:
    return Shell(tmp_path, hub)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def local(folder: Path, tmp_path: Path) -> str:
    """The bytes of the same model from a folder, without the provenance that names its place."""
    return tensors(kanna.convert(folder, tmp_path / "local.gguf", preset="Q8_0").paths[0])


def tensors(path: Path) -> str:
    from kanna.formats import gguf
    from kanna.model import num_rows

    found = hashlib.sha256()
    for name, tensor in gguf.read(path).tensors.items():
        data = tensor.raw(0, num_rows(tensor))
        assert data is not None
        found.update(name.encode() + data.tobytes())
    return found.hexdigest()


def test_only_what_is_needed_is_fetched(
    folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path
) -> None:
    extra = {
        "pytorch_model.bin": b"x" * 99,
        "onnx.onnx": b"y",
        "optimizer.safetensors": b"z",
        "picture.png": b"p",
    }
    hub.add(REPO, folder, **extra)
    run = kanna_cli("convert", REPO, "-o", "out.gguf", "--preset", "Q8_0")
    assert run.returncode == 0, run.stderr
    assert not {what for _, what, _ in hub.asked} & set(extra)
    assert tensors(tmp_path / "out.gguf") == local(folder, tmp_path)
    order = [what for method, what, _ in hub.asked if method == "GET"]
    assert hub.fetched(WEIGHTS)[0] == "bytes=0-65535", "the header comes first"
    assert order.index("tokenizer.json") < order.index(WEIGHTS)


@pytest.mark.parametrize(
    "command", [["inspect"], ["fit"], ["convert", "--dry-run"]], ids=lambda c: c[0]
)
def test_headers_suffice(command: list[str], folder: Path, hub: Hub, kanna_cli: Shell) -> None:
    hub.add(REPO, folder)
    run = kanna_cli(*command, REPO, "--json")
    assert run.returncode == 0, run.stderr
    json.loads(run.stdout)
    assert hub.fetched(WEIGHTS) == ["bytes=0-65535"]


def test_refused_before_any_weight(
    folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path
) -> None:
    hub.add(REPO, folder)
    config = json.loads(hub.files[REPO, "main"]["config.json"])
    config["architectures"] = ["NopeForCausalLM"]
    hub.files[REPO, "main"]["config.json"] = json.dumps(config).encode()
    run = kanna_cli("convert", REPO, "-o", "out.gguf")
    assert run.returncode == 1 and "NopeForCausalLM is not supported" in run.stderr
    assert hub.fetched(WEIGHTS) == ["bytes=0-65535"]
    assert not (tmp_path / "out.gguf").exists()


def test_revision(folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    values = load_file(other / WEIGHTS)
    save_file(
        {k: v * np.float32(2) for k, v in values.items()},
        other / WEIGHTS,
        metadata={"format": "pt"},
    )
    hub.add(REPO, other, revision="v2")
    for revision, place in (("main", folder), ("v2", other)):
        out = tmp_path / f"{revision}.gguf"
        options = ["--revision", revision, "-o", str(out), "--preset", "Q8_0"]
        run = kanna_cli("convert", REPO, *options)
        assert run.returncode == 0, run.stderr
        assert tensors(out) == local(place, tmp_path)
        (tmp_path / "local.gguf").unlink()
    run = kanna_cli("inspect", REPO, "--revision", "v3")
    assert run.returncode == 1 and "no revision 'v3'" in run.stderr


def test_shards(folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    values = load_file(sharded / WEIGHTS)
    (sharded / WEIGHTS).unlink()
    names = sorted(values)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for part, mine in parts.items():
        save_file({n: values[n] for n in mine}, sharded / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: part for part, mine in parts.items() for n in mine}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert tensors(kanna.convert(sharded, tmp_path / "a.gguf", preset="Q8_0").paths[0]) == local(
        folder, tmp_path
    )
    hub.add(REPO, sharded)
    run = kanna_cli("convert", REPO, "-o", "out.gguf", "--preset", "Q8_0")
    assert run.returncode == 0, run.stderr
    assert tensors(tmp_path / "out.gguf") == tensors(tmp_path / "local.gguf")
    del hub.files[REPO, "main"]["model-00002-of-00002.safetensors"]
    run = kanna_cli("inspect", REPO)
    assert run.returncode == 1 and "model-00002-of-00002.safetensors" in run.stderr


def test_goes_on_where_an_interrupted_download_stopped(
    folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path
) -> None:
    hub.add(REPO, folder)
    size = len(hub.files[REPO, "main"][WEIGHTS])
    hub.break_at[WEIGHTS] = 200_000
    words = ("convert", REPO, "-o", "out.gguf", "--preset", "Q8_0")
    run = kanna_cli(*words, piece=131072)
    assert (
        run.returncode == 1
        and "could not be fetched" in run.stderr
        and "Traceback" not in run.stderr
    )
    assert not (tmp_path / "out.gguf").exists()
    hub.break_at.clear()
    hub.asked.clear()
    run = kanna_cli(*words, piece=131072)
    assert run.returncode == 0, run.stderr
    starts = [int(r.removeprefix("bytes=").split("-")[0]) for r in hub.fetched(WEIGHTS)[1:]]
    assert starts == list(range(131072, size, 131072)), "the first piece was kept"
    assert tensors(tmp_path / "out.gguf") == local(folder, tmp_path)
    hub.asked.clear()
    assert kanna_cli(*words, "--overwrite").returncode == 0
    assert hub.fetched(WEIGHTS) == ["bytes=0-65535"], "nothing is fetched twice"


def test_damaged_download_is_found_and_made_again(
    folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path
) -> None:
    hub.add(REPO, folder)
    etag = hashlib.sha256(hub.files[REPO, "main"][WEIGHTS]).hexdigest()
    blobs = tmp_path / "hf" / "hub" / "models--owner--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag}.partial").write_bytes(b"rubbish" * 1000)
    run = kanna_cli("convert", REPO, "-o", "out.gguf")
    assert run.returncode == 1 and "arrived damaged" in run.stderr
    assert kanna_cli("convert", REPO, "-o", "out.gguf").returncode == 0


def test_offline(folder: Path, hub: Hub, kanna_cli: Shell, tmp_path: Path) -> None:
    hub.add(REPO, folder)
    run = kanna_cli("convert", REPO, "-o", "out.gguf", "--offline")
    assert (
        run.returncode == 1
        and "not in the hub's cache" in run.stderr
        and "without --offline" in run.stderr
    )
    run = kanna_cli("inspect", REPO, KANNA_OFFLINE="1")
    assert run.returncode == 1 and "KANNA_OFFLINE forbids to fetch it" in run.stderr
    assert kanna_cli("inspect", REPO).returncode == 0
    run = kanna_cli("convert", REPO, "-o", "out.gguf", "--offline")
    assert run.returncode == 1 and "--offline" in run.stderr, (
        "what was not fetched whole is not there"
    )
    assert kanna_cli("convert", REPO, "-o", "online.gguf").returncode == 0
    hub.asked.clear()
    run = kanna_cli("convert", REPO, "-o", "out.gguf", "--offline")
    assert run.returncode == 0, run.stderr
    assert hub.asked == []
    assert digest(tmp_path / "out.gguf") == digest(tmp_path / "online.gguf")


def test_what_cannot_be_had_is_said(hub: Hub, kanna_cli: Shell, tmp_path: Path) -> None:
    run = kanna_cli("inspect", "owner/absent")
    assert run.returncode == 1 and "not found on the hub" in run.stderr
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    hub.add("owner/pickled", tmp_path / "pickled")
    run = kanna_cli("convert", "owner/pickled", "-o", "out.gguf")
    assert run.returncode == 1 and "pickled" in run.stderr and "safetensors" in run.stderr
    assert not hub.fetched("pytorch_model.bin")
    run = kanna_cli("inspect", "owner/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert (
        run.returncode == 1
        and "could not be fetched" in run.stderr
        and "Traceback" not in run.stderr
    )
