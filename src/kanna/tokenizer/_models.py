"""Kinds of vocabularies in a tokenizer.json, and what reads each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kanna.errors import UnsupportedError
from kanna.tokenizer import _unigram, _wordpiece
from kanna.tokenizer._vocab import Vocab, from_bpe
from kanna.tokenizer.fields.base import kind_of

_READERS: Mapping[str, Callable[[dict[str, Any], int | None, frozenset[str]], Vocab]] = {
    "BPE": from_bpe,
    "Unigram": _unigram.vocabulary,
    "WordPiece": _wordpiece.vocabulary,
}


def from_json(tokenizer: dict[str, Any], rows: int | None, surplus: frozenset[str]) -> Vocab:
    """Vocabulary of a tokenizer.json.

    Args:
        tokenizer: The parsed file.
        rows: Rows of the embedding, to which the vocabulary is padded; None: as many as tokens.
        surplus: Added tokens that may lie beyond the rows and are dropped there.

    Raises:
        UnsupportedError: llama.cpp has no such vocabulary.
    """
    model = tokenizer.get("model") or {}
    kind = kind_of(model)
    form = list if kind == "Unigram" else dict
    if kind is None or kind not in _READERS or not isinstance(model.get("vocab"), form):
        raise UnsupportedError(
            f"tokenizer.json holds a {kind} model",
            expected="BPE, byte-level or with byte fallback, WordPiece or Unigram",
            todo="give tokenizer.model beside it if the model has one, or a GGUF of the model",
        )
    return _READERS[kind](tokenizer, rows, surplus)
