"""Random tokenizers: a GGUF has the ids of each, or the conversion refuses it or says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import needs, random_tokenizers
from helpers.tokenizing import folder_source, llama_tokenizer
from tokenizers import Tokenizer

from kanna import tokenizer
from kanna.errors import FormatError, GateError, KannaError
from kanna.formats import gguf
from kanna.model import string
from kanna.tokenizer import _pre
from kanna.tokenizer.reference import own_tokenizer
from kanna.verification import written_tokenizer

needs.llama_cpp()

# Other texts than those that a conversion tries.
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
    "\x00\x07\x7f''quoted''",
    "xx zz qq ABC Def",
    "",
    " ",
)
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}


def silent(number: int, folder: Path) -> list[str]:
    """The texts that get other ids in llama.cpp though the conversion would say nothing."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(random_tokenizers.make(number)))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    source = folder_source(folder)
    try:
        read = tokenizer.read(source)
        name, notes = read.adapt("vocabulary")
        keys = {"general.architecture": string("llama"), "general.name": string(name)}
        keys |= read.metadata
        notes = notes + written_tokenizer.examine(source, keys)
    except KannaError:
        return []
    if notes:
        return []
    gguf.write(folder / "vocabulary.gguf", metadata=keys, tensors=[])
    ids = llama_tokenizer(folder / "vocabulary.gguf")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [t for t in TEXTS if ids(t) != own.encode(t).ids]


@pytest.fixture(autouse=True)
def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reading is another judge, and takes a process for each tokenizer."""
    monkeypatch.setattr(written_tokenizer, "read_by_library", lambda files: "not asked")


def test_no_random_tokenizer_changes_silently(tmp_path: Path) -> None:
    assert {n: texts for n in range(24) if (texts := silent(n, tmp_path / str(n)))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(24, 224, 50))
def test_no_more_random_tokenizers_change_silently(first: int, tmp_path: Path) -> None:
    numbers = range(first, first + 50)
    assert {n: texts for n in numbers if (texts := silent(n, tmp_path / str(n)))} == {}


def test_a_panic_of_the_library_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    data = json.loads(random_tokenizers.trained("bytes"))
    data["model"]["continuing_subword_prefix"] = "##"  # its merges have none
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match="cannot be read"):
        own_tokenizer(folder_source(tmp_path))


@pytest.mark.parametrize(
    "respell",
    [
        lambda p: p.replace(r"\r", "\r").replace(r"\n", "\n"),
        lambda p: p.replace(r"\u3040", "\u3040"),
        lambda p: p.replace(r"\"", '"'),
    ],
)
def test_a_pattern_is_known_in_each_of_its_spellings(respell: object) -> None:
    assert callable(respell)
    for name in ("llama-bpe", "qwen2", "gpt-4o", "deepseek-v3"):
        steps, lookup = _pre.steps_of(name)
        for step in steps:
            if step["type"] == "Split":
                step["pattern"]["Regex"] = respell(step["pattern"]["Regex"])
        model = {"ignore_merges": lookup, "merges": [], "vocab": {}}
        sequence = {"type": "Sequence", "pretokenizers": steps}
        assert _pre.detect({"pre_tokenizer": sequence, "model": model}) == name


def test_a_plain_token_that_llama_cpp_takes_for_control_is_said(tmp_path: Path) -> None:
    data = json.loads(random_tokenizers.trained("bytes"))
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    for left, right in (("<", "/"), ("</", "s"), ("</s", ">")):
        if [left, right] not in merges:
            merges.append([left, right])
        vocabulary.setdefault(left + right, len(vocabulary))
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": _pre.steps_of("qwen2")[0],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    source = folder_source(tmp_path)
    keys = {"general.architecture": string("llama"), "general.name": string("x")}
    try:
        notes = written_tokenizer.examine(source, keys | tokenizer.metadata(source))
    except GateError as error:
        notes = [str(error)]
    assert any("</s>" in note for note in notes), notes
