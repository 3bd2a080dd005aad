"""What a field is, and what a look at its value says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Fate(str, Enum):
    """What becomes of a field in a GGUF."""

    CARRIED = "carried"
    NEUTRAL = "changes nothing"
    NOTED = "named in a note"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a field is judged by.

    Attributes:
        tokenizer: The object in tokenizer.json.
        settings: The one in tokenizer_config.json, with the tokens of special_tokens_map.json.
        bytes_: Whether the vocabulary is byte-level; otherwise it is like SentencePiece's, or
            WordPiece's.
    """

    tokenizer: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    bytes_: bool

    @property
    def model(self) -> Mapping[str, Any]:
        """The part with the vocabulary."""
        return self.tokenizer.get("model") or {}

    @property
    def words(self) -> bool:
        """Whether the vocabulary is WordPiece's."""
        return kind_of(self.model) == "WordPiece"

    @property
    def pieces(self) -> bool:
        """Whether the vocabulary is Unigram's."""
        return kind_of(self.model) == "Unigram"

    @property
    def ids(self) -> Mapping[str, Any]:
        """The vocabulary's ids by text; Unigram lists its texts in their order."""
        vocab: Any = self.model.get("vocab") or {}
        if isinstance(vocab, Mapping):
            return vocab
        return {text: i for i, (text, _) in enumerate(vocab)}


def kind_of(model: Mapping[str, Any]) -> str | None:
    """The kind of a vocabulary in tokenizer.json; old files name none, and merges make it BPE."""
    return model.get("type") or ("BPE" if "merges" in model else None)


Judge = Callable[[Any, Parts], tuple[Fate, str]]
"""The fate of a value, and the sentence for the user where it is noted or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field, or one type of a part that has several.

    Attributes:
        name: As in the file.
        how: Where it goes in a GGUF, or why it changes nothing.
        fate: That of every value; None: `judge` decides.
        judge: Looks at a value.
    """

    name: str
    how: str
    fate: Fate | None = None
    judge: Judge | None = None

    def look(self, value: Any, parts: Parts) -> tuple[Fate, str]:
        """The fate of a value, and its sentence."""
        if self.judge is not None:
            return self.judge(value, parts)
        assert self.fate is not None
        return self.fate, ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one value: the file, the field, the fate and a sentence for the user."""

    file: str
    field: str
    fate: Fate
    sentence: str = ""


def carried(name: str, how: str) -> Field:
    """A field that a GGUF has a place for."""
    return Field(name=name, how=how, fate=Fate.CARRIED)


def neutral(name: str, how: str) -> Field:
    """A field that changes neither ids nor text."""
    return Field(name=name, how=how, fate=Fate.NEUTRAL)


def unless(name: str, values: tuple[Any, ...], sentence: str, fate: Fate = Fate.NOTED) -> Field:
    """A field that changes nothing at some values, and has another fate at any other.

    Args:
        name: As in the file.
        values: At which it changes nothing; null is one of them always.
        sentence: For the user, with the value for `{}`.
        fate: Of other values.
    """

    def look(value: Any, parts: Parts) -> tuple[Fate, str]:
        if value is None or any(value == v and type(value) is type(v) for v in values):
            return Fate.NEUTRAL, ""
        return fate, sentence.replace("{}", short(value))

    shown = ", ".join(json.dumps(v) for v in (None, *values))
    return Field(name=name, how=f"changes nothing at {shown}; else {fate.value}", judge=look)


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"


def steps(node: Any, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a part of tokenizer.json, sequences unfolded; `inner` names their list."""
    if not isinstance(node, Mapping):
        return []
    if node.get("type") == "Sequence":
        return [step for child in node.get(inner) or [] for step in steps(child, inner)]
    return [node]
