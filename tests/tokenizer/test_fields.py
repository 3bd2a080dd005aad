"""Fields of a tokenizer's files: each is carried, changes nothing, is noted, or refused."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import write_tokenizer
from helpers.tokenizing import folder_source

from kanna import tokenizer
from kanna.tokenizer.fields import TABLES

SPACE = "▁"
Change = Callable[[dict[str, Any]], None]


def normalizer(step: dict[str, Any]) -> Change:
    def change(data: dict[str, Any]) -> None:
        old = data.get("normalizer")
        steps = old["normalizers"] if old else []
        data["normalizer"] = {"type": "Sequence", "normalizers": [step, *steps]}

    return change


def put(part: str, value: Any) -> Change:
    return lambda data: data.__setitem__(part, value)


def in_model(**values: Any) -> Change:
    return lambda data: data["model"].update(values)


def flag(name: str) -> Change:
    return lambda data: data["added_tokens"][-1].__setitem__(name, True)


def metaspace(scheme: str) -> Change:
    def change(data: dict[str, Any]) -> None:
        data["normalizer"] = None
        data["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": scheme,
            "split": False,
        }

    return change


def framed(*pieces: str) -> Change:
    single = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if p == "A"
        else {"SpecialToken": {"id": p, "type_id": 0}}
        for p in pieces
    ]
    tokens = {p: {"id": p, "ids": [i], "tokens": [p]} for i, p in ((1, "<s>"), (2, "</s>"))}
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [],
        "special_tokens": tokens,
    }
    return put("post_processor", template)


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
REFUSED, NOTED, SILENT = "refused", "noted", "silent"
CASES: list[tuple[str, str, Change, str, str]] = [
    # kind of vocabulary, name, change of tokenizer.json, what becomes of it, a word of the sentence
    *(
        (kind, name, normalizer(step), fate, name)
        for kind in ("qwen2", "spm")
        for name, step, fate in (
            ("Lowercase", {"type": "Lowercase"}, REFUSED),
            ("StripAccents", {"type": "StripAccents"}, NOTED),
            ("NFKC", {"type": "NFKC"}, NOTED),
            ("NFD", {"type": "NFD"}, NOTED),
            ("NFC", {"type": "NFC"}, NOTED),
            ("Strip", {"type": "Strip", "strip_left": True, "strip_right": True}, REFUSED),
            ("Replace", REPLACE, REFUSED),
            ("Prepend", {"type": "Prepend", "prepend": "x"}, REFUSED),
            ("Invented", {"type": "Invented"}, REFUSED),
        )
    ),
    ("qwen2", "prepended", normalizer({"type": "Prepend", "prepend": SPACE}), REFUSED, "Prepend"),
    ("spm", "always", metaspace("always"), NOTED, "begins with a space"),
    ("spm", "never", metaspace("never"), SILENT, ""),
    ("spm", "first", metaspace("first"), NOTED, "control token"),
    ("spm", "digits", put("pre_tokenizer", DIGITS), REFUSED, "Digits"),
    ("spm", "split", put("pre_tokenizer", SPLIT), REFUSED, "Split"),
    ("qwen2", "split", put("pre_tokenizer", SPLIT), REFUSED, "pre-tokenizer"),
    ("qwen2", "bytes", put("pre_tokenizer", BYTES), REFUSED, "pre-tokenizer"),
    ("qwen2", "metaspace", metaspace("always"), REFUSED, "pre-tokenizer"),
    ("qwen2", "lookup", in_model(ignore_merges=True), SILENT, ""),
    ("qwen2", "affix", in_model(end_of_word_suffix="</w>"), REFUSED, "end_of_word_suffix"),
    ("qwen2", "prefix", in_model(continuing_subword_prefix="##"), REFUSED, "continuing"),
    ("qwen2", "dropout", in_model(dropout=0.1), NOTED, "dropout"),
    ("spm", "unknown field", in_model(invented=3), NOTED, "invented"),
    ("spm", "unknown part", put("invented", {"a": 1}), NOTED, "invented"),
    ("spm", "empty part", put("invented", None), SILENT, ""),
    ("qwen2", "single word", flag("single_word"), NOTED, "<|im_end|>"),
    ("qwen2", "lstrip", flag("lstrip"), NOTED, "<|im_end|>"),
    ("qwen2", "rstrip", flag("rstrip"), NOTED, "<|im_end|>"),
    ("qwen2", "normalized", flag("normalized"), SILENT, ""),
    ("spm", "normalized", flag("normalized"), NOTED, "normalized"),
    ("spm", "flag", flag("invented"), NOTED, "invented"),
    ("qwen2", "decoder", put("decoder", {"type": "WordPiece", "prefix": "##"}), NOTED, "WordPiece"),
    ("spm", "decoder", put("decoder", {"type": "Metaspace", "replacement": SPACE}), SILENT, ""),
    ("qwen2", "bos and eos", framed("<s>", "A", "</s>"), SILENT, ""),
    ("qwen2", "two before", framed("<s>", "<s>", "A"), REFUSED, "frames"),
    ("qwen2", "other than bos", framed("</s>", "A"), NOTED, "bos_token"),
    ("qwen2", "batches", put("truncation", {"max_length": 8}), SILENT, ""),
]


@pytest.fixture(scope="module", params=["qwen2", "spm"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    write_tokenizer(request.param, folder, 512)
    return request.param, folder


def _loaded(folder: Path, to: Path, name: str, change: Change) -> tokenizer.Read:
    for path in folder.iterdir():
        data = json.loads(path.read_text())
        if path.name == name:
            change(data)
        (to / path.name).write_text(json.dumps(data))
    if not (to / name).exists():
        data = {}
        change(data)
        (to / name).write_text(json.dumps(data))
    loaded = tokenizer.load(folder_source(to), rows=512)
    notes = loaded.notes if loaded.refusal else loaded.adapt("x")[1]
    return tokenizer.Read(loaded.metadata, set(), set(), notes, loaded.refusal)


def _fate(loaded: tokenizer.Read) -> tuple[str, str]:
    if loaded.refusal is not None:
        return REFUSED, loaded.refusal.found
    return (NOTED if loaded.notes else SILENT), " ".join(loaded.notes)


def test_every_change_of_a_tokenizer_has_its_fate(files: Any, tmp_path: Path) -> None:
    kind, folder = files
    wrong: list[str] = []
    for number, (of, name, change, fate, word) in enumerate(CASES):
        if of != kind:
            continue
        to = tmp_path / str(number)
        to.mkdir()
        seen, sentence = _fate(_loaded(folder, to, "tokenizer.json", change))
        if seen != fate or word not in sentence:
            wrong.append(f"{name}: {seen}, not {fate}: {sentence}")
    assert not wrong, "\n".join(wrong)


SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("tokenizer_config.json", {"split_special_tokens": True}, "split_special_tokens"),
    ("tokenizer_config.json", {"do_lower_case": True}, "do_lower_case"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "code of its own"),
    ("tokenizer_config.json", {"additional_special_tokens": ["<new>"]}, "<new>"),
    ("tokenizer_config.json", {"chat_template": {"rag": "R"}}, "none is the default"),
    ("tokenizer_config.json", {"chat_template": 3}, "is lost"),
    ("tokenizer_config.json", {"pad_token": "[NEW]"}, "[NEW]"),
    ("tokenizer_config.json", {"invented": 1}, "invented"),
    ("tokenizer_config.json", {"invented": None}, ""),
    ("tokenizer_config.json", {"model_max_length": 9}, ""),
    ("generation_config.json", {"stop_strings": ["END"]}, "stop_strings"),
    ("generation_config.json", {"num_beams": 4}, "num_beams"),
    ("generation_config.json", {"temperature": 0.6, "do_sample": True}, ""),
    ("generation_config.json", {"num_beams": 1, "max_length": 20}, ""),
    ("generation_config.json", {"invented": 1}, "invented"),
]


@pytest.mark.parametrize(("name", "values", "word"), SETTINGS)
def test_every_setting_has_its_fate(
    name: str, values: dict[str, Any], word: str, tmp_path: Path
) -> None:
    write_tokenizer("llama-bpe", tmp_path, 512)
    loaded = _loaded(tmp_path, tmp_path, name, lambda data: data.update(values))
    seen, sentence = _fate(loaded)
    assert (seen, word in sentence) == (NOTED if word else SILENT, True), sentence


def test_suppressed_tokens_are_carried(tmp_path: Path) -> None:
    write_tokenizer("qwen2", tmp_path, 512)
    (tmp_path / "generation_config.json").write_text(json.dumps({"suppress_tokens": [3, 9999]}))
    metadata = tokenizer.metadata(folder_source(tmp_path))
    assert metadata["tokenizer.ggml.suppress_tokens"].value == [3]


def test_no_field_is_listed_twice_and_each_says_how() -> None:
    for table in TABLES.values():
        names = [f.name for f in table]
        assert len(set(names)) == len(names) and all(f.how for f in table)


def test_the_page_is_what_the_code_says() -> None:
    root = Path(__file__).parents[2]
    tool = runpy.run_path(str(root / "tools" / "tokenizer_fields.py"))
    assert (root / "docs" / "tokenizers.md").read_text(encoding="utf-8") == tool["page"](), (
        "run `make docs`"
    )
