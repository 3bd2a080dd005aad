"""Models and files on this machine: fetched, listed, removed, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import ollama_store
from helpers.stub_hub import Hub, serving, use

import kanna
from kanna import sources
from kanna._util import folders
from kanna.cli.main import cli
from kanna.errors import KannaError, SourceError, UsageError
from kanna.sources import packages
from kanna.storage import builtins


@pytest.fixture
def hub(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a checkpoint and GGUF files; every folder of kanna lies in the test's own."""
    for variable in ("KANNA_CACHE", "KANNA_STATE", "KANNA_CONFIG", "OLLAMA_MODELS"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    with serving() as stub:
        data = tiny_gguf.read_bytes()
        stub.files["org/ggufs", "main"] = {
            "a-Q8_0.gguf": data,
            "b-Q4_K_M.gguf": data + bytes(32),
            "README.md": b"#",
        }
        stub.files["org/ggufs", "v2"] = {"a-Q8_0.gguf": data}
        use(stub, tmp_path / "hf", monkeypatch)
        yield stub


def invoke(*words: object, **given: Any) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words], **given)


def listed() -> list[str]:
    return [model.reference for model in kanna.list().models]


def test_a_model_is_pulled_listed_and_removed(hub: Hub, tmp_path: Path) -> None:
    result = kanna.pull("org/ggufs:Q8_0")
    assert result.ok and Path(result.path).name == "a-Q8_0.gguf"
    assert result.num_bytes == len(hub.files["org/ggufs", "main"]["a-Q8_0.gguf"])
    assert result.revision == hub.commit("org/ggufs", "main")
    assert listed() == ["org/ggufs:a-Q8_0.gguf"]
    kanna.pull("org/ggufs:b-Q4_K_M.gguf")
    kanna.pull("org/ggufs:a-Q8_0.gguf", revision="v2")
    assert sorted(listed()) == [
        "org/ggufs:a-Q8_0.gguf",
        "org/ggufs:b-Q4_K_M.gguf",
        "org/ggufs@v2:a-Q8_0.gguf",
    ]
    for reference in listed():
        assert kanna.inspect(reference, offline=True).num_tensors, "what is listed can be used"
    kanna.rm("org/ggufs@v2:a-Q8_0.gguf")
    assert kanna.inspect("org/ggufs:a-Q8_0.gguf", offline=True).num_tensors, "a shared blob stays"
    before = sum(p.stat().st_size for p in (tmp_path / "hf").glob("*/blobs/*"))
    gone = kanna.rm("org/ggufs:b-Q4_K_M.gguf")
    after = sum(p.stat().st_size for p in (tmp_path / "hf").glob("*/blobs/*"))
    assert before - after == gone.num_bytes > 0
    kanna.rm(["org/ggufs"])
    assert listed() == [] and not [*(tmp_path / "hf").glob("*/blobs/*")]


def test_the_cache_is_the_one_of_huggingface_hub(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    path = Path(kanna.pull("org/ggufs:Q8_0").path)
    asked = len(hub.asked)
    theirs = hf_hub_download("org/ggufs", "a-Q8_0.gguf", local_files_only=True)
    assert Path(theirs) == path and len(hub.asked) == asked
    (repository,) = scan_cache_dir(tmp_path / "hf").repos
    assert repository.repo_id == "org/ggufs"
    hf_hub_download("org/ggufs", "b-Q4_K_M.gguf")
    assert "org/ggufs:b-Q4_K_M.gguf" in listed(), "what they fetched, we list"


def test_every_store_is_listed(hub: Hub, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama_store.make(folders.cache_folder().parent / "store", tiny_gguf, monkeypatch)
    own = packages.cache_dir() / packages.FILES["smollm2-135m"]
    own.write_bytes(tiny_gguf.read_bytes())
    kanna.pull("org/ggufs:Q8_0")
    stores = {model.reference: model.store for model in kanna.list().models}
    assert stores == {
        "ollama:tiny:latest": "ollama",
        "builtin:smollm2-135m": "package",
        "org/ggufs:a-Q8_0.gguf": "hub",
    }
    kanna.rm("builtin:smollm2-135m")
    assert not own.exists()


def test_every_built_in_model_has_a_place() -> None:
    assert packages.FILES.keys() <= sources.BUILTIN.keys()


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("org/ggufs", SourceError, "not on this machine"),
        ("org/other:x.gguf", SourceError, "not on this machine"),
        ("builtin:smollm2-135m", SourceError, "not on this machine"),
        ("builtin:nothing", SourceError, "not on this machine"),
        ("ollama:tiny", UsageError, "ollama rm tiny"),
        ("model.gguf", UsageError, "is a path"),
    ],
)
def test_what_cannot_be_removed_is_told(
    reference: str, kind: type[KannaError], words: str, hub: Hub
) -> None:
    with pytest.raises(kind, match=words):
        kanna.rm(reference)


def test_nothing_goes_when_one_of_them_is_not_here(hub: Hub) -> None:
    kanna.pull("org/ggufs:Q8_0")
    with pytest.raises(SourceError):
        kanna.rm(["org/ggufs", "org/absent"])
    assert listed() == ["org/ggufs:a-Q8_0.gguf"]


def test_removing_asks_unless_told_otherwise(hub: Hub) -> None:
    kanna.pull("org/ggufs:Q8_0")
    run = invoke("rm", "org/ggufs")
    assert run.exit_code == 2 and "--yes" in run.stderr and listed()
    run = invoke("rm", "org/ggufs", "--dry-run", "--json")
    assert run.exit_code == 0 and json.loads(run.stdout)["dry_run"] and listed()
    run = invoke("rm", "org/ggufs", "--yes", "--json")
    assert run.exit_code == 0 and json.loads(run.stdout)["num_bytes"] > 0 and not listed()


def test_pulling_prints_the_path_alone(hub: Hub) -> None:
    run = invoke("pull", "org/ggufs:Q8_0")
    assert run.exit_code == 0 and Path(run.stdout.strip()).is_file()
    run = invoke("pull", "org/ggufs:Q8_0", "--json")
    assert json.loads(run.stdout)["reference"] == "org/ggufs:Q8_0"
    run = invoke("list")
    assert run.exit_code == 0 and "org/ggufs:a-Q8_0.gguf" in run.stdout
    assert json.loads(invoke("list", "--json").stdout)["models"][0]["store"] == "hub"


def test_the_cache_is_shown_and_pruned(hub: Hub, tmp_path: Path) -> None:
    kanna.pull("org/ggufs:Q8_0")
    derived = packages.cache_dir() / "references" / "x.f32.gguf"
    derived.parent.mkdir()
    derived.write_bytes(bytes(1000))
    begun = next((tmp_path / "hf").glob("*/blobs")) / "abc.partial"
    begun.write_bytes(bytes(500))
    run = invoke("cache", "--json")
    shown = json.loads(run.stdout)
    places = {place["name"]: place for place in shown["places"]}
    assert places["Hugging Face cache"]["models"] == 1 and shown["num_bytes"] == 1500
    assert places["kanna cache"]["path"] == str(tmp_path / "kanna_cache")
    run = invoke("cache", "prune")
    assert run.exit_code == 2 and derived.exists()
    run = invoke("cache", "prune", "--dry-run")
    assert run.exit_code == 0 and derived.exists() and "1.5 kB" in run.stdout
    run = invoke("cache", "prune", "--yes")
    assert run.exit_code == 0 and "1.5 kB" in run.stdout
    assert not derived.exists() and not begun.exists()
    assert listed() == ["org/ggufs:a-Q8_0.gguf"], "models stay"
    assert kanna.cache().num_bytes == 0
    with pytest.raises(UsageError, match="show or prune"):
        kanna.cache("clean")


def test_folders_follow_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder, variable, fallback in (
        (folders.cache_folder, "CACHE", ".cache"),
        (folders.state_folder, "STATE", ".local/state"),
        (folders.config_folder, "CONFIG", ".config"),
    ):
        monkeypatch.delenv(f"KANNA_{variable}", raising=False)
        monkeypatch.delenv(f"XDG_{variable}_HOME", raising=False)
        assert folder() == tmp_path / fallback / "kanna"
        monkeypatch.setenv(f"XDG_{variable}_HOME", str(tmp_path / "xdg"))
        assert folder() == tmp_path / "xdg" / "kanna"
        monkeypatch.setenv(f"KANNA_{variable}", str(tmp_path / "own"))
        assert folder() == tmp_path / "own"


def test_what_a_place_takes_is_counted_without_holes(tmp_path: Path) -> None:
    with (tmp_path / "hollow.safetensors").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 4096)
    assert 4096 <= builtins.num_bytes(tmp_path) < 2 << 20
