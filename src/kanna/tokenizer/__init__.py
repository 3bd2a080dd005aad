"""Tokenizers: their files in a Hugging Face folder → the `tokenizer.*` metadata of a GGUF.

load(source) → what was read, with why llama.cpp cannot have it; metadata(source) → keys with
values; to_hf(metadata) → tokenizer files. Nothing is guessed: a tokenizer llama.cpp cannot
reproduce is refused for GGUFs, and kept as it is for the runtimes that read its files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanna.errors import KannaError, SourceError, UnsupportedError
from kanna.model import MetaValue, ValueType, array, boolean, string
from kanna.tokenizer import _special, files, templates
from kanna.tokenizer._models import from_json
from kanna.tokenizer._strip import runtime_name, strip_notes, stripping
from kanna.tokenizer._to_hf import to_hf
from kanna.tokenizer._vocab import Vocab
from kanna.tokenizer.fields import Fate, Parts, judge

if TYPE_CHECKING:
    from kanna.sources import Source

__all__ = ["Read", "load", "made_json", "metadata", "read", "to_hf"]

KEY = "tokenizer.ggml"
_ODD_FORMS = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What a field of another type comes to, in files of hundreds of thousands of fields."""


@dataclass(frozen=True, slots=True)
class Read:
    """A tokenizer as read.

    Attributes:
        metadata: Keys of a GGUF; of one that llama.cpp cannot have, special tokens and templates.
        left: Added tokens that swallow whitespace before them.
        right: Added tokens that swallow whitespace after them.
        notes: What llama.cpp does otherwise.
        refusal: Why llama.cpp cannot have it.
    """

    metadata: dict[str, MetaValue]
    left: set[str]
    right: set[str]
    notes: list[str] = field(default_factory=list[str])
    refusal: KannaError | None = None

    def adapt(self, name: str) -> tuple[str, list[str]]:
        """The general.name with which llama.cpp tokenizes alike, and notes on what it cannot do."""
        if self.refusal is not None:
            return name, self.notes
        name = runtime_name(name, self.metadata[f"{KEY}.tokens"].value, self.right)
        return name, self.notes + strip_notes(name, self.left, self.right)


def metadata(
    source: Source, *, rows: int | None = None, surplus: frozenset[str] = frozenset()
) -> dict[str, MetaValue]:
    """The `tokenizer.*` keys of a Hugging Face source; see `read`."""
    return read(source, rows=rows, surplus=surplus).metadata


def read(source: Source, *, rows: int | None = None, surplus: frozenset[str] = frozenset()) -> Read:
    """The tokenizer of a Hugging Face source, for a GGUF.

    Args:
        source: The source.
        rows: Rows of the embedding; missing tokens are padded, surplus ones refused.
        surplus: Added tokens that may be dropped when they lie beyond the rows.

    Raises:
        UnsupportedError: llama.cpp has no match for the tokenizer.
        SourceError: It is damaged or absent.
    """
    loaded = load(source, rows=rows, surplus=surplus)
    if loaded.refusal is not None:
        raise loaded.refusal
    return loaded


def load(source: Source, *, rows: int | None = None, surplus: frozenset[str] = frozenset()) -> Read:
    """As `read`, but what llama.cpp has no match for is told in the result.

    Raises:
        SourceError: The tokenizer is damaged or absent.
    """
    try:
        return _load(source, rows, surplus)
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise SourceError(
            "the tokenizer files do not have their usual form "
            f"({type(error).__name__}: {error!s:.200})",
            expected="tokenizer.json and tokenizer_config.json as transformers writes them",
            todo="fetch them again",
        ) from error


def _load(source: Source, rows: int | None, surplus: frozenset[str]) -> Read:
    config = files.configured(source.files)
    generation = files.generation(source.files)
    try:
        tokenizer, vocab = _vocab(source, config, rows, surplus)
    except UnsupportedError as error:
        known = files.texts_by_id(files.read(source.files, files.TOKENIZER), rows)
        entries, _ = _special.special_ids(known, config, _configs(source, generation))
        entries |= _special.templates(templates.read(source.files, config))
        return Read(entries, set(), set(), refusal=error)
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
    special, notes = _special.special_ids(vocab.tokens, config, _configs(source, generation))
    entries |= special
    frame, more = _special.framing(tokenizer, config, entries, model=vocab.model)
    entries |= frame | vocab.keys
    if vocab.space_prefix is not None:
        entries[f"{KEY}.add_space_prefix"] = boolean(vocab.space_prefix)
    if suppressed := _suppressed(generation, len(vocab.tokens)):
        entries[f"{KEY}.suppress_tokens"] = array(suppressed, ValueType.I32)
    entries |= _special.templates(templates.read(source.files, config))
    made = Read(entries, *stripping(tokenizer or {}), vocab.notes + notes + more)
    parts = Parts(tokenizer=tokenizer or {}, settings=config, bytes_=vocab.merges is not None)
    return _judged(made, parts, generation)


def _judged(made: Read, parts: Parts, generation: Mapping[str, Any]) -> Read:
    """The tokenizer with what becomes of each field of its files."""
    findings = judge(parts, parts.settings, generation)
    refused = [f for f in findings if f.fate is Fate.REFUSED]
    notes = [f.sentence for f in findings if f.fate is Fate.NOTED]
    refusal = None
    if refused:
        refusal = UnsupportedError(
            "; ".join(f.sentence for f in refused),
            expected="a tokenizer that llama.cpp can reproduce",
            todo="write a folder of another runtime, which keeps the tokenizer as it is: "
            "--preset mlx:q8 or onnx:q4",
        )
    return replace(made, notes=list(dict.fromkeys(made.notes + notes)), refusal=refusal)


def _configs(source: Source, generation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The configs that can name special ids; that of a model within a model too."""
    nested = source.config.get("text_config")
    return [source.config, nested if isinstance(nested, dict) else {}, generation]


def _suppressed(generation: Mapping[str, Any], size: int) -> list[int]:
    given = generation.get("suppress_tokens")
    return [i for i in given if 0 <= int(i) < size] if isinstance(given, list) else []


def _vocab(
    source: Source, config: Mapping[str, Any], rows: int | None, surplus: frozenset[str]
) -> tuple[dict[str, Any] | None, Vocab]:
    """The object of tokenizer.json, where there is one, and the vocabulary.

    Raises:
        UnsupportedError: llama.cpp has no such tokenizer.
        SourceError: There is none.
    """
    there = source.files
    if files.TOKENIZER in there:
        tokenizer = files.read(there, files.TOKENIZER)
        return tokenizer, from_json(tokenizer, rows, surplus)
    if (path := next((there[n] for n in files.PIECES if n in there), None)) is not None:
        from kanna.tokenizer._spm import from_model

        return None, from_model(path.read_bytes(), _added_tokens(source, config), rows, surplus)
    if "vocab.json" in there and "merges.txt" in there:
        tokenizer = files.from_merges(there, config)
        return tokenizer, from_json(tokenizer, rows, surplus)
    others = [n for n in ("tekken.json", "tiktoken.model", "vocab.txt") if n in there]
    raise SourceError(
        "the model has no tokenizer" + (f" that kanna reads, but {others[0]}" if others else ""),
        expected="tokenizer.json, tokenizer.model, or vocab.json with merges.txt beside the "
        "weights",
        todo="copy the tokenizer files of the base model into the folder",
    )


def _added_tokens(source: Source, config: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """Ids → (text, special) of the tokens added to a tokenizer.model."""
    given = files.read(source.files, "added_tokens.json")
    added = {int(i): (str(t), False) for t, i in given.items()}
    decoder = config.get("added_tokens_decoder") or {}
    return added | {int(i): (str(t["content"]), bool(t.get("special"))) for i, t in decoder.items()}


def made_json(there: Mapping[str, Path], entries: Mapping[str, MetaValue]) -> bytes:
    """tokenizer.json of a source that has none: as transformers makes it, where it is installed.

    Raises:
        KannaError: None can be made.
    """
    from kanna.tokenizer.reference import LibraryReading, read_by_library  # they read these files

    reading = read_by_library(there)
    if isinstance(reading, LibraryReading) and reading.tokenizer_json and not reading.is_empty:
        return reading.tokenizer_json.encode()
    if "vocab.json" in there and "merges.txt" in there:
        made = files.from_merges(there, files.configured(there))
        return (json.dumps(made, ensure_ascii=False, indent=1) + "\n").encode()
    return to_hf(entries)[files.TOKENIZER]
