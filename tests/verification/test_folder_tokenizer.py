"""Folders for onnxruntime-genai and mlx-lm: their tokenizers give the source's ids, or it is said.

The ids are those of the runtimes' own libraries on other texts than a conversion tries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from helpers import needs, random_tokenizers, tiny_models
from helpers.tokenizing import folder_source, llama_tokenizer
from tokenizers import Tokenizer

import kanna
from kanna import tokenizer
from kanna._util.kept_process import ask_kept
from kanna.conversion.base import WrittenArtefact
from kanna.errors import GateError, KannaError, MissingError
from kanna.formats import gguf
from kanna.formats.onnx.build import GENAI, side_files
from kanna.model import string
from kanna.sources import packages
from kanna.verification import folder_tokenizer
from kanna.verification.folder_tokenizer import mlx

needs.llama_cpp()
pytest.importorskip("onnxruntime_genai")
pytest.importorskip("mlx_lm")

TEXTS = (
    "It's 12345 test x",
    "  a  b   ",
    "fox foxes the fox. 12 1212 a12b",
    "a b a b spaced spaced end",
    "<s>hi</s> <|user|> there<|e|>x",
    "line\n\nline\n\t\tif x:\r\n    y",
    "e\u0301é É ñ § ß ſ",
    "你好 世界 日本語 مرحبا שלום",
    "👩\u200d👩\u200d👧🙂",
    "xx zz qq ABC Def ''quoted''",
    "",
    " ",
)
SETTINGS = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
CONFIG = {"model_type": "llama", "vocab_size": 512, "max_position_embeddings": 2048}
DECODER = {
    "filename": "model.onnx",
    "head_size": 64,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
}
MODEL = {"type": "llama", "vocab_size": 512, "context_length": 2048, "decoder": DECODER}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def in_genai(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Ids by onnxruntime-genai, in a process that may die of a tokenizer."""
    task = {"folder": str(folder), "texts": list(texts)}
    answer = ask_kept("kanna.verification.folder_tokenizer.genai_worker", task, "genai")
    return answer["ids"]


def in_mlx(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    from mlx_lm.tokenizer_utils import load

    loaded: Any = load(folder)
    return [loaded.encode(t, add_special_tokens=False) for t in texts]


def onnx_folder(folder: Path, files: dict[str, bytes]) -> WrittenArtefact:
    """What a conversion puts beside a graph."""
    folder.mkdir()
    genai = {"model": MODEL | IDS, "search": {"max_length": 2048}}
    written = side_files(CONFIG, files) | {GENAI: json.dumps(genai).encode()}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    return WrittenArtefact(format="onnx", folder=folder)


def mlx_folder(folder: Path, files: dict[str, bytes]) -> WrittenArtefact:
    folder.mkdir()
    for name, data in {**files, "config.json": json.dumps(CONFIG).encode()}.items():
        (folder / name).write_bytes(data)
    return WrittenArtefact(format="mlx", config=CONFIG, files=files)


RUNTIMES: dict[str, tuple[Callable[..., WrittenArtefact], Callable[..., list[list[int]]]]] = {
    "onnx": (onnx_folder, in_genai),
    "mlx": (mlx_folder, in_mlx),
}


def silent(form: str, source: Any, files: dict[str, bytes], folder: Path) -> list[str]:
    """The texts to which a folder's runtime gives other ids, though nothing would be said."""
    write, ids = RUNTIMES[form]
    written = write(folder, files)
    try:
        if folder_tokenizer.examine(source, written):
            return []
    except KannaError:
        return []
    own = Tokenizer.from_str(files["tokenizer.json"].decode())
    expected = [own.encode(t, add_special_tokens=False).ids for t in TEXTS]
    actual = ids(folder, TEXTS)
    return [t for t, a, b in zip(TEXTS, expected, actual, strict=True) if a != b]


def of_number(number: int, folder: Path) -> tuple[Any, dict[str, bytes]]:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(random_tokenizers.make(number)))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    return folder_source(folder), {p.name: p.read_bytes() for p in folder.iterdir()}


def changed(form: str, numbers: range, folder: Path) -> dict[int, list[str]]:
    texts = {
        n: silent(form, *of_number(n, folder / str(n)), folder / f"{n}-{form}") for n in numbers
    }
    return {n: of for n, of in texts.items() if of}


@pytest.mark.parametrize("form", RUNTIMES)
def test_no_random_tokenizer_changes_silently(form: str, tmp_path: Path) -> None:
    assert changed(form, range(10), tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("form", RUNTIMES)
@pytest.mark.parametrize("first", range(24, 224, 50))
def test_no_more_random_tokenizers_change_silently(form: str, first: int, tmp_path: Path) -> None:
    assert changed(form, range(first, first + 50), tmp_path) == {}


def back(number: int, folder: Path) -> list[str]:
    """As `silent`, of a tokenizer.json made of the GGUF of a tokenizer: llama.cpp is the judge."""
    source, _ = of_number(number, folder)
    try:
        read = tokenizer.read(source)
        name, _ = read.adapt("vocabulary")
        keys = {"general.architecture": string("llama"), "general.name": string(name)}
        gguf.write(folder / "v.gguf", metadata=keys | read.metadata, tensors=[])
        files = tokenizer.to_hf(read.metadata)
        made: Any = SimpleNamespace(kind="gguf", path=folder / "v.gguf", files={})
        ids = llama_tokenizer(folder / "v.gguf")
        if folder_tokenizer.examine(made, mlx_folder(folder / "mlx", files)):
            return []
    except KannaError:
        return []
    own = Tokenizer.from_str(files["tokenizer.json"].decode())
    return [t for t in TEXTS if own.encode(t).ids != ids(t)]


@pytest.mark.parametrize(
    "numbers", [range(12), pytest.param(range(24, 224), marks=pytest.mark.slow)]
)
def test_none_made_of_a_gguf_changes_silently(numbers: range, tmp_path: Path) -> None:
    assert {n: texts for n in numbers if (texts := back(n, tmp_path / str(n)))} == {}


COMPOSED = "onnxruntime-genai composes no characters (the tokenizer's NFC normalizer)"
RUNS = "onnxruntime-genai merges spaces, line ends and long runs in another order"
REAL = {
    ("llama2", "onnx"): RUNS,
    ("qwen2_5", "onnx"): COMPOSED,
    ("qwen2_5", "mlx"): "",
    ("gemma3", "onnx"): RUNS,
    ("llama3", "onnx"): "",
    ("mistral_nemo", "onnx"): "",
    ("mistral_nemo", "mlx"): "",
    ("gpt4o", "onnx"): "",
}
QUICK = [("llama2", "onnx"), ("qwen2_5", "onnx"), ("qwen2_5", "mlx")]


@pytest.mark.parametrize(
    ("name", "form"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in REAL],
)
def test_published_tokenizers_in_the_runtimes(name: str, form: str, tmp_path: Path) -> None:
    try:
        folder = packages.tokenizer(name)
    except MissingError as error:
        pytest.skip(str(error))
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    written = RUNTIMES[form][0](tmp_path / "made", files)
    notes = folder_tokenizer.examine(folder_source(folder), written)
    assert bool(notes) == bool(REAL[name, form]), notes
    assert all(note.startswith("onnxruntime-genai") for note in notes)


def test_a_conversion_says_what_the_library_of_the_runtime_does_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tiny_models.make("smollm", source)
    tiny_models.write_tokenizer("spm", source, 512)
    data = json.loads((source / "tokenizer.json").read_text())
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}
    (source / "tokenizer.json").write_text(json.dumps(data))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "LlamaTokenizer"})
    )
    result = kanna.convert(source, tmp_path / "out", preset="mlx:q4", threads=1)
    assert any("(LlamaTokenizer) gives other token ids" in note for note in result.notes)


def test_a_tokenizer_made_wrongly_is_refused(tmp_path: Path) -> None:
    """Every other merge of the GGUF's tokens is gone."""
    folder = tmp_path / "source"
    folder.mkdir()
    tiny_models.write_tokenizer("spm", folder, 512)
    read = tokenizer.metadata(folder_source(folder), rows=512)
    keys = {"general.architecture": string("llama"), "general.name": string("x")}
    gguf.write(folder / "v.gguf", metadata=keys | read, tensors=[])
    files = tokenizer.to_hf(read)
    data = json.loads(files["tokenizer.json"])
    del data["model"]["merges"][::2]
    made: Any = SimpleNamespace(kind="gguf", path=folder / "v.gguf", files={})
    wrong = mlx_folder(tmp_path / "wrong", files | {"tokenizer.json": json.dumps(data).encode()})
    with pytest.raises(GateError, match=r"other token ids than llama.cpp"):
        folder_tokenizer.examine(made, wrong)
    assert folder_tokenizer.examine(made, mlx_folder(tmp_path / "right", files)) == []


def test_a_library_that_dies_or_is_not_here_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, files = of_number(0, tmp_path / "source")
    written = mlx_folder(tmp_path / "made", files)
    assert folder_tokenizer.examine(source, written) == []
    for answer in ("mlx-lm ended with code -11: no message", "mlx-lm is not installed"):
        monkeypatch.setattr(mlx, "read_by_library", Mock(return_value=answer))
        notes = folder_tokenizer.examine(source, written)
        assert notes == [f"the token ids of the folder were not checked: {answer}"]
