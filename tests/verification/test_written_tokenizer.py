"""The tokenizer of a GGUF is held against the source's own library before a weight is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.tokenizing import folder_source

import kanna
from kanna import tokenizer
from kanna.errors import GateError
from kanna.model import MetaValue, ValueType, array, boolean, string, u32
from kanna.runtimes.llamacpp import RUNTIME
from kanna.tokenizer.reference import LibraryReading, read_by_library
from kanna.verification.written_tokenizer import examine

pytestmark = pytest.mark.skipif(not RUNTIME.available().ok, reason="needs llama.cpp")
HEAD = {"general.architecture": string("llama"), "general.name": string("vocabulary")}


@pytest.fixture(scope="module", params=["qwen2", "spm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    tiny_models.write_tokenizer(request.param, made, 512)
    return made


def _keys(folder: Path) -> dict[str, MetaValue]:
    return HEAD | tokenizer.metadata(folder_source(folder))


def test_a_tokenizer_that_is_carried_has_no_note(folder: Path) -> None:
    assert examine(folder_source(folder), _keys(folder)) == []


@pytest.mark.parametrize("change", ["words", "framing"])
def test_other_ids_for_plain_text_are_refused(change: str, folder: Path) -> None:
    keys = _keys(folder)
    if change == "framing":
        keys["tokenizer.ggml.add_bos_token"] = boolean(False)
    elif (merges := keys.get("tokenizer.ggml.merges")) is not None:
        keys["tokenizer.ggml.merges"] = array(list(merges.value)[::-1], ValueType.STR)
    else:
        keys["tokenizer.ggml.add_space_prefix"] = boolean(False)
    with pytest.raises(GateError, match="plain text"):
        examine(folder_source(folder), keys)


def test_what_transformers_does_otherwise_is_noted(folder: Path) -> None:
    pytest.importorskip("transformers")
    keys = _keys(folder) | {
        "tokenizer.chat_template": string("{{ messages }}"),
        "tokenizer.ggml.eos_token_id": u32(5),
    }
    template, special = examine(folder_source(folder), keys)
    assert "chat template" in template and "eos token is 2" in special


def test_a_reading_is_kept_and_a_failure_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("kanna.tokenizer.reference.cache_dir", lambda: tmp_path)
    files = folder_source(folder).files
    first = read_by_library(files)
    assert isinstance(first, LibraryReading) and (first.bos, first.eos) == (1, 2)
    monkeypatch.setattr("kanna.tokenizer.reference.ask_kept", None)  # the answer is kept
    assert read_by_library(files) == first
    monkeypatch.undo()
    monkeypatch.setattr("kanna.tokenizer.reference.cache_dir", lambda: tmp_path)
    [kept] = (tmp_path / "tokenizer-readings").iterdir()
    kept.write_text("{}")  # of an earlier version
    assert read_by_library(files) == first
    (tmp_path / "tokenizer.json").write_text("{}")
    failure = read_by_library({"tokenizer.json": tmp_path / "tokenizer.json"})
    assert isinstance(failure, str) and failure


def test_a_refusal_leaves_nothing_and_a_note_is_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out.gguf"
    tiny_models.make("llama", source)
    data = json.loads((source / "tokenizer.json").read_text())
    data["normalizer"] = None
    data["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    (source / "tokenizer.json").write_text(json.dumps(data))
    result = kanna.convert(source, out, encoding="f32", threads=1)
    assert any("control token" in n for n in result.notes)
    assert any("texts that try it" in n for n in result.notes)
    before = out.read_bytes()
    monkeypatch.setattr("kanna.verification.written_tokenizer.PLAIN", tuple(_all_texts()))
    with pytest.raises(GateError, match="plain text"):
        kanna.convert(source, out, encoding="f16", overwrite=True, threads=1)
    assert out.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"source", "out.gguf"}


def _all_texts() -> list[str]:
    from kanna.tokenizer.reference import TEXTS

    return list(TEXTS)
