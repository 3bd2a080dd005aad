"""End tokens are carried from every file that can name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import needs
from helpers.tiny_models import write_tokenizer
from helpers.tokenizing import folder_source

from kanna import tokenizer
from kanna.formats import gguf
from kanna.model import string
from kanna.runtimes.folder_text import FolderText
from kanna.tokenizer import special_tokens

SIZE = 512
ADDED = ["<stop>", "<halt>", "<done>", "<over>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer that names no end token; it has four more control tokens, 600 to 603."""
    write_tokenizer("qwen2", tmp_path, SIZE)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"] += [
        {"id": 600 + i, "content": t, "special": True} | plain for i, t in enumerate(ADDED)
    ]
    data["model"]["vocab"] |= {t: 600 + i for i, t in enumerate(ADDED)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    _write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return tmp_path


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def _stops_in_llama_cpp(metadata: dict[str, Any], path: Path) -> set[int]:
    from kanna.runtimes.llamacpp import RUNTIME

    head = {"general.architecture": string("llama"), "general.name": string("ends")}
    gguf.write(path, metadata=head | metadata, tensors=[])
    with RUNTIME.open(path, vocab_only=True) as engine:
        return {i for i in range(600, 604) if engine.eog(i)}


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"tokenizer_config.json": {"eos_token": "<stop>"}}, {600}),
        ({"special_tokens_map.json": {"eos_token": "<stop>"}}, {600}),
        ({"special_tokens_map.json": {"eos_token": {"content": "<halt>"}}}, {601}),
        ({"generation_config.json": {"eos_token_id": 600}}, {600}),
        ({"generation_config.json": {"eos_token_id": [602, 601]}}, {601, 602}),
        (
            {
                "tokenizer_config.json": {"eos_token": "<stop>"},
                "generation_config.json": {"eos_token_id": [600, 601, 602]},
            },
            {600, 601, 602},
        ),
        ({"config.json": {"eos_token_id": [603, 600]}}, {600, 603}),
    ],
)
def test_every_end_token_ends_in_llama_cpp_and_in_folders(
    files: dict[str, Any], ends: set[int], folder: Path, tmp_path: Path
) -> None:
    needs.llama_cpp()
    for name, value in files.items():
        _write(folder, name, value)
    config = files.get("config.json", {})
    read = tokenizer.read(folder_source(folder, config), rows=700)
    assert not read.notes
    assert _stops_in_llama_cpp(read.metadata, tmp_path / "ends.gguf") == ends
    assert FolderText(folder, [config]).ends == ends


def test_a_fourth_end_token_is_named_in_a_note(folder: Path) -> None:
    _write(folder, "generation_config.json", {"eos_token_id": [600, 601, 602, 603]})
    (note,) = tokenizer.read(folder_source(folder), rows=700).notes
    assert "<over>" in note


def test_an_older_config_gives_way_to_the_map_a_newer_one_does_not() -> None:
    token_map = {"eos_token": "<halt>", "pad_token": "<done>"}
    old = special_tokens.settings({"eos_token": "<stop>"}, token_map)
    new = special_tokens.settings({"eos_token": "<stop>", "added_tokens_decoder": {}}, token_map)
    assert old["eos_token"] == "<halt>"
    assert (new["eos_token"], new["pad_token"]) == ("<stop>", "<done>")
