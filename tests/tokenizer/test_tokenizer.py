"""Tokenizer metadata: special tokens, framing, templates, padding, and what is refused."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers import needs
from helpers.tiny_models import write_tokenizer
from helpers.tokenizing import folder_source, llama_tokenizer

from kanna import tokenizer
from kanna.errors import FormatError, KannaError, MissingError, SourceError, UnsupportedError
from kanna.formats import gguf
from kanna.model import string
from kanna.sources import packages
from kanna.tokenizer import _pre, _spm

SIZE = 512


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer("qwen2", tmp_path, SIZE)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def value(metadata: dict[str, Any], key: str) -> Any:
    found = metadata.get(f"tokenizer.{key}")
    return None if found is None else found.value


def test_vocabulary_is_padded_to_the_embedding(folder: Path) -> None:
    metadata = tokenizer.metadata(folder_source(folder), rows=SIZE + 40)
    tokens, types = value(metadata, "ggml.tokens"), value(metadata, "ggml.token_type")
    assert len(tokens) == len(types) == SIZE + 40
    assert tokens[-1] == f"[PAD{SIZE + 39}]" and types[-1] == 5


def test_more_tokens_than_rows_is_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="rows; beyond it") as error:
        tokenizer.metadata(folder_source(folder), rows=100)
    assert "resize" in error.value.todo


def test_surplus_tokens_may_be_dropped(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    last = max(a["id"] for a in data["added_tokens"])
    kept = tokenizer.metadata(folder_source(folder), rows=last, surplus=frozenset({"<|im_end|>"}))
    assert len(value(kept, "ggml.tokens")) == last


def test_unknown_pre_tokenizer_names_what_was_found(folder: Path) -> None:
    split = {
        "type": "Split",
        "pattern": {"Regex": r"\w+|\W+"},
        "behavior": "Isolated",
        "invert": False,
    }
    edit(folder / "tokenizer.json", pre_tokenizer=split)
    with pytest.raises(UnsupportedError) as error:
        tokenizer.metadata(folder_source(folder))
    assert (
        r"\\w+|\\W+" in error.value.found and "qwen2" in error.value.expected and error.value.todo
    )


@pytest.mark.parametrize(
    "name", ["llama-bpe", "qwen2", "tekken", "gpt-4o", "smollm", "gpt-2", "deepseek-v3", "dbrx"]
)
def test_every_pre_tokenizer_is_recognised_in_its_own_form(name: str) -> None:
    steps, lookup = _pre.steps_of(name)
    made = {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"ignore_merges": lookup},
    }
    assert _pre.detect(made) == name


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ("not json", SourceError, "is not JSON"),
        ("[]", SourceError, "holds list"),
        ('{"model": {"type": "Unigram", "vocab": []}}', UnsupportedError, "Unigram"),
        ('{"model": {"type": "WordPiece", "vocab": {}}}', UnsupportedError, "WordPiece"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}',
            KannaError,
            r"model\.vocab\['a'\]",
        ),
    ],
)
def test_damaged_files_are_named(
    folder: Path, change: str, error: type[Exception], match: str
) -> None:
    (folder / "tokenizer.json").write_text(change)
    with pytest.raises(error, match=match):
        tokenizer.metadata(folder_source(folder))


@pytest.mark.parametrize(
    "key", ["normalizer", "pre_tokenizer", "post_processor", "added_tokens", "model"]
)
@pytest.mark.parametrize("value", [[], [1], "x", 7, {"type": 3}, {"processors": 1}])
def test_odd_values_raise_our_errors_only(folder: Path, key: str, value: Any) -> None:
    edit(folder / "tokenizer.json", **{key: value})
    with contextlib.suppress(KannaError):
        tokenizer.metadata(folder_source(folder))


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no tokenizer"):
        tokenizer.metadata(folder_source(tmp_path))


def test_duplicate_texts_are_refused(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    twin = dict(data["added_tokens"][-1], id=SIZE + 1)
    edit(folder / "tokenizer.json", added_tokens=[*data["added_tokens"], twin])
    with pytest.raises(UnsupportedError, match="two tokens have the text"):
        tokenizer.metadata(folder_source(folder))


def test_chat_template_file_wins_and_named_templates_are_kept(folder: Path) -> None:
    assert "im_start" in value(tokenizer.metadata(folder_source(folder)), "chat_template")
    named = [{"name": "default", "template": "A"}, {"name": "tool use", "template": "B"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    metadata = tokenizer.metadata(folder_source(folder))
    assert (
        value(metadata, "chat_template") == "A" and value(metadata, "chat_template.tool_use") == "B"
    )
    assert value(metadata, "chat_templates") == ["tool_use"]
    (folder / "chat_template.jinja").write_text("C")
    assert value(tokenizer.metadata(folder_source(folder)), "chat_template") == "C"


@pytest.mark.parametrize(
    ("post", "config", "expected"),
    [
        ({"type": "ByteLevel"}, {"add_bos_token": True}, (False, False)),
        (None, {"add_bos_token": True}, (False, False)),
        (None, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, (True, False)),
        (
            {"type": "TemplateProcessing", "single": [{"Sequence": {}}, {"SpecialToken": {}}]},
            {},
            (False, True),
        ),
        (
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {}}, {"Sequence": {}}]},
            {},
            (True, False),
        ),
    ],
)
def test_framing_follows_the_post_processor(
    folder: Path, post: Any, config: Any, expected: Any
) -> None:
    edit(folder / "tokenizer.json", post_processor=post)
    edit(folder / "tokenizer_config.json", **config)
    metadata = tokenizer.metadata(folder_source(folder))
    assert (
        value(metadata, "ggml.add_bos_token"),
        value(metadata, "ggml.add_eos_token"),
    ) == expected


def extended_llama2(tmp_path: Path, added: list[dict[str, Any]]) -> Path:
    """Llama 2's tokenizer with tokens added, as Code Llama's and Phi-3's are made."""
    try:
        base = packages.tokenizer("llama2")
    except MissingError as error:
        pytest.skip(str(error))
    data = json.loads((base / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    same = {a["content"] for a in added}
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] not in same] + [
        flags | a for a in added
    ]
    for a in added:
        data["model"]["vocab"].setdefault(a["content"], a["id"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text((base / "tokenizer_config.json").read_text())
    return tmp_path


def test_code_llama_has_its_fill_in_tokens(tmp_path: Path) -> None:
    texts = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}
    folder = extended_llama2(
        tmp_path, [{"id": i, "content": t, "special": True} for i, t in texts.items()]
    )
    metadata = tokenizer.metadata(folder_source(folder), rows=32016)
    found = {
        k: value(metadata, f"ggml.{k}_token_id")
        for k in ("fim_pre", "fim_suf", "fim_mid", "eot", "bos", "eos")
    }
    assert found == {
        "fim_pre": 32007,
        "fim_suf": 32008,
        "fim_mid": 32009,
        "eot": 32010,
        "bos": 1,
        "eos": 2,
    }
    assert len(value(metadata, "ggml.tokens")) == 32016


PHI3 = [
    "<|assistant|>",
    "<|placeholder1|>",
    "<|placeholder2|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
]


def test_phi3_tokens_swallow_whitespace_in_llama_cpp_too(tmp_path: Path) -> None:
    """llama.cpp knows it by the model's name only.

    With the name we choose, a chat gives the same ids.
    """
    needs.llama_cpp()
    import tokenizers

    added = [{"id": 2, "content": "</s>", "special": False, "rstrip": True}]
    added.append({"id": 32000, "content": "<|endoftext|>", "special": True})
    added += [
        {"id": 32001 + i, "content": t, "special": True, "rstrip": True} for i, t in enumerate(PHI3)
    ]
    folder = extended_llama2(tmp_path, added)
    read = tokenizer.read(folder_source(folder), rows=32064)
    name, notes = read.adapt("Phi 3 Mini 4k Instruct")
    assert name == "Phi-3 Mini 4k Instruct" and not notes
    assert read.adapt("My Tune")[0] == "My Tune (Phi-3)"
    path = tmp_path / "vocab.gguf"
    head = {"general.architecture": string("phi3"), "general.name": string(name)}
    gguf.write(path, metadata=head | read.metadata, tensors=[])
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    chat = "<|user|>\nWhat is 2 + 2?<|end|>\n<|assistant|>\n"
    assert llama_tokenizer(path)(chat) == reference.encode(chat).ids


def test_a_name_llama_cpp_would_stumble_over_is_changed(folder: Path) -> None:
    """A GGUF named phi3 without Phi-3's tokens does not load."""
    assert tokenizer.read(folder_source(folder)).adapt("tiny-phi3-test")[0] == "tiny-Phi 3-test"


def test_stripped_whitespace_is_said(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"][-1]["lstrip"] = True
    edit(folder / "tokenizer.json", **data)
    (note,) = tokenizer.read(folder_source(folder)).adapt("x")[1]
    assert "<|im_end|>" in note


def message(*fields: tuple[int, bytes | int | float]) -> bytes:
    """A protocol buffer message of the given fields (all numbers and lengths below 128)."""
    out = b""
    for number, field in fields:
        if isinstance(field, bytes):
            out += bytes([number << 3 | 2, len(field)]) + field
        elif isinstance(field, float):
            out += bytes([number << 3 | 5]) + struct.pack("<f", field)
        else:
            out += bytes([number << 3, field])
    return out


def test_sentencepiece_models_are_read(tmp_path: Path) -> None:
    pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("▁a", -1.0, 1),
        ("▁▁", 0.0, 4),
    ]
    data = b"".join(message((1, message((1, t.encode()), (2, s), (3, k)))) for t, s, k in pieces)
    data += message((2, message((3, 2)))) + message((3, message((3, 0))))
    vocab = _spm.from_model(data, {6: ("<new>", True)}, 8, frozenset())
    assert vocab.tokens == ["<unk>", "<s>", "</s>", "<0x0A>", "▁a", "  ", "<new>", "[PAD7]"]
    assert vocab.types == [2, 3, 3, 6, 1, 4, 3, 5] and vocab.space_prefix is False
    assert vocab.scores is not None and vocab.scores[4] == -1.0
    for end in range(1, len(data) - 1):
        with pytest.raises((KannaError, FormatError)) if end < 20 else _RefusedOrRead():
            _spm.from_model(data[:end], {}, None, frozenset())
    with pytest.raises(UnsupportedError, match="not a BPE"):
        _spm.from_model(message((1, message((1, b"a")))), {}, None, frozenset())


class _RefusedOrRead:
    """A truncated model is refused or read as a shorter one; nothing else may happen."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is None or issubclass(kind, KannaError)


def test_the_mark_of_a_space_is_kept_where_spaces_are_bytes(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"][-1] |= {"content": "▁▁", "special": False}
    edit(folder / "tokenizer.json", added_tokens=data["added_tokens"])
    metadata = tokenizer.metadata(folder_source(folder))
    assert value(metadata, "ggml.tokens")[data["added_tokens"][-1]["id"]] == "▁▁"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (((1, b"identity"), (4, 0)), []),
        (((1, b"nmt_nfkc"), (2, b"map"), (4, 0)), ["nmt_nfkc"]),
        ((), ["extra spaces"]),
    ],
)
def test_what_sentencepiece_does_to_a_text_is_noted(spec: Any, words: list[str]) -> None:
    data = message((1, message((1, b"a"), (2, 0.0)))) + message((2, message((3, 2))))
    vocab = _spm.from_model(data + message((3, message(*spec))), {}, None, frozenset())
    assert len(vocab.notes) == len(words)
    assert all(word in note for word, note in zip(words, vocab.notes, strict=True))
