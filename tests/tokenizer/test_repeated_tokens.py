"""A GGUF with one text for two tokens ends llama.cpp: it is named before llama.cpp sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from helpers import tiny_models

import kanna
from kanna.errors import FormatError, KannaError, UnsupportedError
from kanna.runtimes.llamacpp import check_header
from kanna.tokenizer.repeated import repeated


def with_tokens(source: Path, out: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """A copy of a GGUF with other tokens."""
    read = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(out), "llama")
    for field in read.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value: Any = field.contents()
        if field.name == "tokenizer.ggml.tokens":
            value = change(value)
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(field.name, value)
        else:
            writer.add_key_value(field.name, value, field.types[0])
    for tensor in read.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeated")
    (folder / "source").mkdir()
    tiny_models.make("smollm", folder / "source")
    kanna.convert(folder / "source", folder / "right.gguf", encoding="f32", threads=1)
    with_tokens(folder / "right.gguf", folder / "wrong.gguf", lambda t: [*t[:300], t[7], *t[301:]])
    return folder


def test_every_verb_names_both_tokens(folder: Path) -> None:
    wrong, words = folder / "wrong.gguf", "tokens 7 and 300 have the same text"
    inspected = kanna.inspect(wrong)
    assert not inspected.ok and words in inspected.problems[0]["found"]
    assert inspected.num_tensors
    for format in ("gguf", "mlx", "safetensors"):
        with pytest.raises(UnsupportedError, match=words):
            kanna.convert(wrong, folder / "out", format=format)
    assert not (folder / "out").exists()
    with pytest.raises(FormatError, match=words):
        list(kanna.generate(wrong, "hello", max_tokens=1))
    checks = kanna.verify(folder / "source", wrong, threads=1).checks
    assert any(c.ok is False and words in c.detail for c in checks)
    with pytest.raises(KannaError, match=words):
        kanna.verify(wrong, folder / "right.gguf", threads=1)


def test_a_right_file_passes(folder: Path) -> None:
    assert kanna.inspect(folder / "right.gguf").ok
    check_header(folder / "right.gguf")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["a", "b", "a"], "tokens 0 and 2"),
        (["", "a", ""], ""),
        (["a", "A", "a "], ""),
        (["x", "y", "y", "x"], "tokens 1 and 2"),
        (None, ""),
        ("aa", ""),
        ([], ""),
    ],
)
def test_which_tokens_repeat_another(tokens: object, words: str) -> None:
    assert words in repeated(tokens) and bool(repeated(tokens)) == bool(words)
