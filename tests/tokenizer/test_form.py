"""A wrong field of a tokenizer file is refused by name, and a panic of the library is an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_models

import kanna
from kanna import families
from kanna.errors import FormatError, SourceError
from kanna.runtimes.folder_text import FolderText
from kanna.serving.engines._http_server import BadRequestError
from kanna.serving.engines._text_codec import TextCodec
from kanna.sources import open_source
from kanna.tokenizer import form
from kanna.tokenizer.fields import pre_tokenizers
from kanna.tokenizer.fields.base import Parts

SLOW = {
    "type": "Split",
    "pattern": {"Regex": "(a+)+$"},
    "behavior": "Isolated",
    "invert": False,
}
"""Backtracks without end on many a's before another letter."""
VICTIM = "a" * 40 + "b"


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


WRONG: dict[str, dict[str, Any]] = {
    "added_tokens": {"added_tokens": 5},
    "added_tokens[0].id": {"added_tokens": [{"id": "five", "content": "x"}]},
    "added_tokens[0].content": {"added_tokens": [{"id": 5, "content": ["x"]}]},
    "no added_tokens[0].content": {"added_tokens": [{"id": 5}]},
    "added_tokens[0].special": {"added_tokens": [{"id": 5, "content": "x", "special": "no"}]},
    "normalizer": {"normalizer": ["NFC"]},
    "no normalizer.type": {"normalizer": {"kind": "NFC"}},
    "normalizer.type": {"normalizer": {"type": 3}},
    "normalizer.normalizers": {"normalizer": {"type": "Sequence", "normalizers": {"a": 1}}},
    "normalizer.normalizers[1].content": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "content": 1}],
        }
    },
    "steps 17 deep": {"normalizer": nested(40)},
    "1024 steps": {
        "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"} for _ in range(2000)]}
    },
    "pre_tokenizer.pattern": {"pre_tokenizer": SLOW | {"pattern": [1]}},
    "pre_tokenizer.pattern.Regex": {"pre_tokenizer": SLOW | {"pattern": {"Regex": "a" * 70_000}}},
    "pre_tokenizer.pattern.String": {"pre_tokenizer": SLOW | {"pattern": {"String": {}}}},
    "pre_tokenizer.invert": {"pre_tokenizer": SLOW | {"invert": "no"}},
    "pre_tokenizer.behavior": {"pre_tokenizer": SLOW | {"behavior": 1}},
    "post_processor.single[0]": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": 3, "type_id": 0}}],
        }
    },
    "post_processor.special_tokens.x.ids": {
        "post_processor": {"type": "TemplateProcessing", "special_tokens": {"x": {"ids": "3"}}}
    },
    "post_processor.sep": {"post_processor": {"type": "BertProcessing", "sep": [3, "a"]}},
    "decoder.start": {"decoder": {"type": "Strip", "content": " ", "start": -1, "stop": 0}},
    "model": {"model": "BPE"},
    "model.byte_fallback": {"model": {"type": "BPE", "byte_fallback": "yes"}},
    "model.dropout": {"model": {"type": "BPE", "dropout": float("nan")}},
    "model.vocab": {"model": {"type": "BPE", "vocab": "abc"}},
    "model.vocab['b']": {"model": {"type": "BPE", "vocab": {"a": 0, "b": "1"}}},
    "model.vocab[1]": {"model": {"type": "Unigram", "vocab": [["a", 0.5], ["b"]]}},
    "in model.vocab": {"model": {"type": "BPE", "vocab": {"\ud800": 0}}},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_field_of_another_kind_is_named(field: str) -> None:
    with pytest.raises(SourceError) as error:
        form.check(WRONG[field], "tokenizer.json")
    assert field.removeprefix("no ") in error.value.found
    assert error.value.expected
    assert error.value.todo


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": "a"}}, "added_tokens_decoder.1"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {}}}, "decoder.1.content"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ("added_tokens.json", {"<a>": "5"}, "<a>"),
    ],
)
def test_other_files_too(name: str, value: dict[str, Any], field: str) -> None:
    with pytest.raises(SourceError) as error:
        form.check(value, name)
    assert field in error.value.found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("form") / "source"
    tiny_models.make("llama", folder)
    return folder


def changed(source: Path, folder: Path, **fields: Any) -> Path:
    """A copy whose tokenizer.json has other fields."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_every_verb_names_the_field(source: Path, tmp_path: Path) -> None:
    folder = changed(source, tmp_path, normalizer={"type": "Replace", "content": 5})
    for verb in (
        lambda: families.load_model(open_source(folder)),
        lambda: kanna.convert(folder, tmp_path / "out.gguf"),
    ):
        with pytest.raises(SourceError, match=r"normalizer\.content = 5"):
            verb()


def test_endless_nesting_is_refused(source: Path, tmp_path: Path) -> None:
    folder = changed(source, tmp_path)
    (folder / "tokenizer.json").write_text("[" * 200_000)
    with pytest.raises(SourceError, match=r"tokenizer\.json .*nested"):
        families.load_model(open_source(folder))


def test_a_pattern_that_backtracks_without_end(source: Path, tmp_path: Path) -> None:
    """The library panics, which is no Exception: it must not look like Ctrl-C, nor end anything."""
    folder = changed(source, tmp_path, pre_tokenizer=SLOW, normalizer=None)
    text = FolderText(folder, [])
    with pytest.raises(FormatError, match="cannot split"):
        text.tokenize(VICTIM)
    codec = TextCodec(folder, [])
    with pytest.raises(BadRequestError, match="cannot split"):
        codec.encode(VICTIM)
    assert codec.encode("b")
    tokenizer = {"model": {"vocab": {VICTIM: 0}}, "added_tokens": []}
    parts = Parts(tokenizer=tokenizer, settings={}, bytes_=False)
    split = next(f for f in pre_tokenizers.TABLE if f.name == "Split")
    assert split.look(SLOW, parts)
