"""Unigram: the likeliest split of a text into pieces, as XLM-R reads text (`t5` in llama.cpp)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kanna.errors import SourceError, UnsupportedError
from kanna.model import MetaValue, ValueType, array, boolean
from kanna.tokenizer._vocab import (
    SPACE,
    UNUSED_SCORE,
    Type,
    Vocab,
    added_token,
    check_unique,
    fill,
    place,
)
from kanna.tokenizer.fields.base import steps
from kanna.tokenizer.fields.pre_tokenizers import scheme
from kanna.tokenizer.fields.unigram import joins_spaces

MODEL = "t5"
_KEY = "tokenizer.ggml"
_CHARSMAP = f"{_KEY}.precompiled_charsmap"
_SIZE = 4
"""Bytes of the length that a table of replacements begins with."""


def vocabulary(tokenizer: dict[str, Any], rows: int | None, surplus: frozenset[str]) -> Vocab:
    """Vocabulary of a tokenizer.json with a Unigram model; see `_vocab.from_bpe`.

    Raises:
        UnsupportedError: It has no pieces.
        SourceError: Its table of replacements is damaged.
    """
    model = tokenizer["model"]
    pieces = [(str(text), float(score)) for text, score in model["vocab"]]
    if not pieces:
        raise UnsupportedError(
            "tokenizer.json holds a Unigram model without pieces", expected="pieces with scores"
        )
    added = tokenizer.get("added_tokens") or []
    entries = {i: text for i, (text, _) in enumerate(pieces)}
    entries |= {int(a["id"]): str(a["content"]) for a in added}
    tokens, types = fill(place(entries, rows, surplus))
    scores = [pieces[i][1] if i < len(pieces) else UNUSED_SCORE for i in range(len(tokens))]
    unknown = model.get("unk_id")
    if isinstance(unknown, int) and 0 <= unknown < len(types):
        types[unknown] = Type.UNKNOWN
    for a in added:
        if (i := int(a["id"])) < len(tokens) and i != unknown:
            tokens[i], types[i] = added_token(str(a["content"]), bool(a.get("special")))
            scores[i] = 0.0
    check_unique(tokens)
    return Vocab(
        model=MODEL,
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        space_prefix=_prefix(tokenizer),
        keys=_keys(tokenizer),
    )


def _prefix(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text gets a space before it."""
    split = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return any(s.get("type") == "Metaspace" and scheme(s) != "never" for s in split)


def _keys(tokenizer: Mapping[str, Any]) -> dict[str, MetaValue]:
    keys = {f"{_KEY}.remove_extra_whitespaces": boolean(joins_spaces(tokenizer))}
    for step in steps(tokenizer.get("normalizer"), "normalizers"):
        if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            table = _decoded(str(step["precompiled_charsmap"]))
            keys[_CHARSMAP] = array(np.frombuffer(table, np.uint8), ValueType.U8)
    return keys


def _decoded(text: str) -> bytes:
    """A table of replacements, whose parts lie inside it."""
    try:
        table = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise _damaged("a table of replacements that is no base64") from None
    size = int.from_bytes(table[:_SIZE], "little")
    if len(table) < _SIZE or size % 4 or size > len(table) - _SIZE or table[-1]:
        raise _damaged(f"a table of replacements of {len(table)} bytes that names {size}")
    return table


def _damaged(what: str) -> SourceError:
    return SourceError(
        f"tokenizer.json has {what}", expected="as transformers writes it", todo="fetch it again"
    )


def to_json(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float], keys: Mapping[str, Any]
) -> dict[str, Any]:
    """A tokenizer.json without added tokens and frame.

    Args:
        tokens: Texts of a GGUF by id.
        types: Their types.
        scores: Their scores.
        keys: The metadata.

    Raises:
        SourceError: There are not as many scores as tokens.
    """
    if len(scores) != len(tokens):
        raise SourceError(
            f"the GGUF has {len(tokens)} tokens and {len(scores)} scores",
            expected="as many of both",
        )
    count = max((i + 1 for i, kind in enumerate(types) if kind != Type.UNUSED), default=0)
    table = keys.get(_CHARSMAP)
    joined = keys.get(f"{_KEY}.remove_extra_whitespaces")
    prefix = keys.get(f"{_KEY}.add_space_prefix")
    always = prefix is None or bool(prefix.value)
    normalizers: list[dict[str, Any]] = []
    if table is not None:
        data = bytes(np.asarray(table.value).astype(np.uint8))
        packed = base64.b64encode(data).decode()
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": packed})
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if always else "never",
        "split": True,
    }
    split = [{"type": "WhitespaceSplit"}] if joined is not None and joined.value else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*split, metaspace]},
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": next((i for i, t in enumerate(types) if t == Type.UNKNOWN), None),
            "vocab": [[tokens[i], float(scores[i])] for i in range(count)],
            "byte_fallback": False,
        },
    }
