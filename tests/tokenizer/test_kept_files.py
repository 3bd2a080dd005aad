"""Folders for other runtimes keep the tokenizer, templates and generation settings as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import tiny_models
from helpers.tokenizing import folder_source
from tokenizers import Tokenizer

import kanna
from kanna import tokenizer
from kanna.errors import SourceError, UnsupportedError
from kanna.tokenizer import templates

TEXTS = ("Hello  world", "<|im_start|>\nit's", "e\u0301 12", "  two")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer llama.cpp cannot have, with all the files there can be."""
    folder = tmp_path_factory.mktemp("source")
    tiny_models.make("qwen2", folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Lowercase"}
    data["added_tokens"][-1]["rstrip"] = True
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / templates.FOLDER).mkdir()
    (folder / templates.FOLDER / "tool_use.jinja").write_text("T")
    (folder / templates.FILE).write_text("D")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "top_k": 7}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<unk>"}))
    return folder


@pytest.mark.parametrize("to", ["mlx", "safetensors"])
def test_files_are_kept_as_they_are(to: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kanna.convert(source, out, format=to, encoding="bf16", threads=1)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        templates.FILE,
        f"{templates.FOLDER}/tool_use.jinja",
    ):
        assert (out / name).read_bytes() == (source / name).read_bytes(), name


def test_a_gguf_of_it_is_refused_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Lowercase"):
        kanna.convert(source, tmp_path / "out.gguf", threads=1)
    assert not list(tmp_path.iterdir())


def _slow(source: Path, folder: Path, kind: str) -> None:
    """Files as transformers writes them without the fast tokenizer."""
    data = json.loads((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = kind
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    added = {a["content"]: a["id"] for a in data["added_tokens"]}
    vocab = {t: i for t, i in data["model"]["vocab"].items() if t not in added}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    merges = [" ".join(m) for m in data["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer"])
def test_vocab_and_merges_without_tokenizer_json(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    original, folder = tmp_path / "original", tmp_path / "slow"
    original.mkdir()
    folder.mkdir()
    tiny_models.write_tokenizer("qwen2", original, 512)
    _slow(original, folder, kind)
    there = folder_source(folder)
    metadata = tokenizer.metadata(there, rows=512)
    assert metadata["tokenizer.ggml.pre"].value == ("gpt-2" if "GPT2" in kind else "qwen2")
    made = Tokenizer.from_str(tokenizer.made_json(there.files, metadata).decode())
    expected = transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        ids = expected.encode(text, add_special_tokens=False)
        assert made.encode(text, add_special_tokens=False).ids == ids, text


def test_vocab_and_merges_of_another_class_are_named(tmp_path: Path) -> None:
    original, folder = tmp_path / "original", tmp_path / "slow"
    original.mkdir()
    folder.mkdir()
    tiny_models.write_tokenizer("qwen2", original, 512)
    _slow(original, folder, "InventedTokenizer")
    with pytest.raises(UnsupportedError, match=r"vocab.json and merges.txt of a InventedTokenizer"):
        tokenizer.metadata(folder_source(folder))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tekken.json"):
        tokenizer.metadata(folder_source(folder))
