"""WordPiece: words split into the longest pieces of a vocabulary, as BERT reads text.

llama.cpp (`bert`) marks the pieces that begin a word with ▁; the tokenizer's file marks those that
go on, with ##.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna.errors import SourceError, UnsupportedError
from kanna.model import MetaValue, boolean
from kanna.tokenizer._vocab import (
    SPACE,
    Type,
    Vocab,
    added_token,
    check_unique,
    fill,
    place,
    token_texts,
)
from kanna.tokenizer.fields.normalizers import normalization

PREFIX = "##"
MODEL = "bert"
IMPLIED = {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103}
"""Ids of special tokens that llama.cpp takes where a file names none: those of BERT itself."""
_KEY = "tokenizer.ggml.normalizer"
_UNKNOWN = "[UNK]"
_LONGEST_WORD = 100


def vocabulary(tokenizer: dict[str, Any], rows: int | None, surplus: frozenset[str]) -> Vocab:
    """Vocabulary of a tokenizer.json with a WordPiece model; see `_vocab.from_json`.

    Raises:
        UnsupportedError: llama.cpp splits words in another way.
    """
    model = tokenizer["model"]
    prefix = model.get("continuing_subword_prefix", PREFIX)
    if prefix != PREFIX:
        raise UnsupportedError(
            f"the tokenizer marks pieces inside a word with {prefix!r}", expected=repr(PREFIX)
        )
    added = tokenizer.get("added_tokens") or []
    texts = place(token_texts(model, added), rows, surplus)
    tokens, types = fill(texts)
    special = {int(a["id"]) for a in added}
    for a in added:
        if (i := int(a["id"])) < len(tokens):
            tokens[i], types[i] = added_token(str(a["content"]), bool(a.get("special")))
    for i, text in enumerate(texts):
        if text is not None and i not in special:
            tokens[i] = text.removeprefix(PREFIX) if text.startswith(PREFIX) else SPACE + text
    check_unique(tokens)
    lower, strip = normalization(tokenizer)
    return Vocab(
        model=MODEL,
        pre="default",
        tokens=tokens,
        types=types,
        keys={f"{_KEY}.lowercase": boolean(lower), f"{_KEY}.strip_accents": boolean(strip)},
    )


def to_json(
    tokens: Sequence[str],
    types: Sequence[int],
    special: Mapping[str, str],
    flags: tuple[bool, bool],
) -> dict[str, Any]:
    """A tokenizer.json without added tokens and frame.

    Args:
        tokens: Texts of a GGUF by id.
        types: Their types.
        special: Texts of special tokens by what they are for.
        flags: Whether letters are made small, and whether accents are taken off.

    Raises:
        SourceError: Two tokens are one in the form of Hugging Face.
    """
    vocab: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind != Type.UNUSED:
            plain = kind == Type.NORMAL
            inside = plain and not text.startswith(SPACE)
            vocab[PREFIX + text if inside else text.removeprefix(SPACE) if plain else text] = i
    if len(vocab) != sum(kind != Type.UNUSED for kind in types):
        raise SourceError("the GGUF has two tokens of one text", expected="every token once")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": flags[1],
            "lowercase": flags[0],
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": special.get("unk", _UNKNOWN),
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": _LONGEST_WORD,
            "vocab": vocab,
        },
    }


def stored_normalization(metadata: Mapping[str, MetaValue]) -> tuple[bool, bool]:
    """As `normalization`, of a GGUF; llama.cpp makes letters small where it says nothing."""
    lower = metadata.get(f"{_KEY}.lowercase")
    small = True if lower is None else bool(lower.value)
    strip = metadata.get(f"{_KEY}.strip_accents")
    return small, small if strip is None else bool(strip.value)
