"""Steps around a Unigram vocabulary, as SentencePiece writes them: llama.cpp has these alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kanna.tokenizer.fields.base import Fate, Parts, short, steps

_RUNS = ({"Regex": " {2,}"}, {"Regex": r"\s{2,}"})


def joins_spaces(tokenizer: Mapping[str, Any]) -> bool:
    """Whether spaces in a row become one, and those at the ends none."""
    normal = steps(tokenizer.get("normalizer"), "normalizers")
    split = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return any(s.get("type") == "WhitespaceSplit" for s in split) or any(
        s.get("type") == "Replace" and s.get("pattern") in _RUNS for s in normal
    )


def normalizer(step: Mapping[str, Any], parts: Parts) -> tuple[Fate, str] | None:
    """The fate of a step that changes a text; None: as of any other vocabulary."""
    kind = step.get("type")
    if not parts.pieces:
        return None
    if kind == "Precompiled":
        return Fate.CARRIED, ""
    if kind == "Replace" and step.get("pattern") in _RUNS and step.get("content") in (" ", "▁"):
        return Fate.CARRIED, ""
    if kind == "Strip" and joins_spaces(parts.tokenizer):
        return Fate.CARRIED, ""
    return None


def pre_tokenizer(step: Mapping[str, Any], parts: Parts) -> tuple[Fate, str] | None:
    """The fate of a step that splits a text; None: as of any other vocabulary."""
    if not parts.pieces:
        return None
    if step.get("type") in ("Metaspace", "WhitespaceSplit"):
        return Fate.CARRIED, ""
    return Fate.REFUSED, (
        f"the pre-tokenizer {short(step)} splits text otherwise than SentencePiece, and llama.cpp "
        "has no other for such a vocabulary"
    )
