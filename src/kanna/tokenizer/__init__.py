"""Tokenizers: tokenizer.json or tokenizer.model → the `tokenizer.*` metadata of a GGUF.

metadata(source) → keys with values; to_hf(metadata) → tokenizer files.
Nothing is guessed: a tokenizer llama.cpp cannot reproduce is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import SourceError
from kanna.formats.text_files import read_text
from kanna.model import MetaValue, ValueType, array, boolean, string
from kanna.tokenizer import _json, _special, special_tokens, templates
from kanna.tokenizer._strip import runtime_name, strip_notes, stripping
from kanna.tokenizer._to_hf import to_hf
from kanna.tokenizer._vocab import Vocab, from_json

if TYPE_CHECKING:
    from kanna.sources import Source

__all__ = ["Read", "metadata", "read", "to_hf"]

KEY = "tokenizer.ggml"


@dataclass(frozen=True, slots=True)
class Read:
    """A tokenizer as read.

    Its metadata, and the added tokens that swallow whitespace before and after them.
    """

    metadata: dict[str, MetaValue]
    left: set[str]
    right: set[str]
    notes: list[str] = field(default_factory=list[str])

    def adapt(self, name: str) -> tuple[str, list[str]]:
        """The general.name with which llama.cpp tokenizes alike, and notes on what it cannot do."""
        name = runtime_name(name, self.metadata[f"{KEY}.tokens"].value, self.right)
        return name, self.notes + strip_notes(name, self.left, self.right)


def metadata(
    source: Source, *, rows: int | None = None, surplus: frozenset[str] = frozenset()
) -> dict[str, MetaValue]:
    """The `tokenizer.*` keys of a Hugging Face source; see `read`."""
    return read(source, rows=rows, surplus=surplus).metadata


def read(source: Source, *, rows: int | None = None, surplus: frozenset[str] = frozenset()) -> Read:
    """The tokenizer of a Hugging Face source.

    Args:
        source: The source.
        rows: Rows of the embedding; missing tokens are padded, surplus ones refused.
        surplus: Added tokens that may be dropped when they lie beyond the rows.

    Raises:
        UnsupportedError: llama.cpp has no match for the tokenizer.
        SourceError: It is damaged or absent.
    """
    try:
        return _read(source, rows, surplus)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"the tokenizer files do not have their usual form ({type(error).__name__}: {error})",
            expected="tokenizer.json and tokenizer_config.json as transformers writes them",
            todo="fetch them again",
        ) from error


def _read(source: Source, rows: int | None, surplus: frozenset[str]) -> Read:
    files = source.files
    config = special_tokens.settings(
        _object(files, "tokenizer_config.json"), _object(files, "special_tokens_map.json")
    )
    tokenizer = _object(files, "tokenizer.json") if "tokenizer.json" in files else None
    vocab = _vocab(files, tokenizer, config, rows, surplus)
    entries = {
        f"{KEY}.model": string(vocab.model),
        f"{KEY}.pre": string(vocab.pre),
        f"{KEY}.tokens": array(vocab.tokens, ValueType.STR),
        f"{KEY}.token_type": array([int(t) for t in vocab.types], ValueType.I32),
    }
    if vocab.scores is not None:
        entries[f"{KEY}.scores"] = array(vocab.scores, ValueType.F32)
    if vocab.merges is not None:
        entries[f"{KEY}.merges"] = array(vocab.merges, ValueType.STR)
    configs = [source.config, _nested(source.config), _object(files, "generation_config.json")]
    special, notes = _special.special_ids(vocab.tokens, config, configs)
    entries |= special
    entries |= _special.framing(tokenizer, config, default_bos=vocab.model == "llama")
    if vocab.space_prefix is not None:
        entries[f"{KEY}.add_space_prefix"] = boolean(vocab.space_prefix)
    entries |= _special.templates(templates.read(files, config))
    return Read(entries, *stripping(tokenizer or {}), notes)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part of the config of a model that reads more than text."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else {}


def _vocab(
    files: dict[str, Path],
    tokenizer: dict[str, Any] | None,
    config: dict[str, Any],
    rows: int | None,
    surplus: frozenset[str],
) -> Vocab:
    if tokenizer is not None:
        return from_json(tokenizer, rows, surplus)
    if (path := files.get("tokenizer.model")) is None:
        raise SourceError(
            "the model has no tokenizer",
            expected="tokenizer.json or tokenizer.model beside the weights",
            todo="copy the tokenizer files of the base model into the folder",
        )
    from kanna.tokenizer._spm import from_model

    return from_model(path.read_bytes(), _added_tokens(files, config), rows, surplus)


def _added_tokens(files: dict[str, Path], config: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """Ids → (text, special) of the tokens added to a tokenizer.model."""
    added = {int(i): (str(t), False) for t, i in _object(files, "added_tokens.json").items()}
    decoder = config.get("added_tokens_decoder") or {}
    return added | {int(i): (str(t["content"]), bool(t.get("special"))) for i, t in decoder.items()}


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read: {error}", todo="fetch it again") from error


def _object(files: dict[str, Path], name: str) -> dict[str, Any]:
    """A JSON side file; {} when absent."""
    if (path := files.get(name)) is None:
        return {}
    try:
        # The largest of them by far is parsed apart.
        value = _json.load(path) if name == "tokenizer.json" else json.loads(_text(path))
    except OSError as error:
        raise SourceError(f"{name} cannot be read: {error}", todo="fetch it again") from error
    except ValueError as error:
        raise SourceError(f"{name} is not JSON: {error}", todo="fetch it again") from error
    if not isinstance(value, dict):
        raise SourceError(
            f"{name} holds {type(value).__name__}", expected="an object", todo="fetch it again"
        )
    return value
