"""Steps that change a text before it is split: llama.cpp has those of SentencePiece alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kanna.tokenizer.corpus import PLAIN
from kanna.tokenizer.fields import unigram
from kanna.tokenizer.fields.base import Fate, Field, Parts, short
from kanna.tokenizer.library import is_failure

SPACE = "▁"
_EDGES = (" a", "a ")


def normalized(step: Mapping[str, Any], text: str) -> str | None:
    """`text` after a step, by the library itself; None for a step that it does not know."""
    import tokenizers

    made = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": dict(step)}
    try:
        normalizer: Any = tokenizers.Tokenizer.from_str(json.dumps(made)).normalizer
        return str(normalizer.normalize_str(text))
    except BaseException as error:
        if not is_failure(error):
            raise
        return None


def normalization(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a tokenizer of words makes letters small, and whether it takes accents off."""
    step = tokenizer.get("normalizer") or {}
    lower = bool(step.get("lowercase", True)) if step.get("type") == "BertNormalizer" else False
    strip = step.get("strip_accents")
    return lower, lower if strip is None else bool(strip)


def _changes(step: Any, parts: Parts) -> tuple[Fate, str]:
    """Refused where it changes plain text, else noted; steps of SentencePiece are carried."""
    if (fate := unigram.normalizer(step, parts)) is not None:
        return fate
    named = f"the tokenizer's normalizer {short(step)}"
    if any(normalized(step, text) != text for text in (*PLAIN, *_EDGES)):
        return Fate.REFUSED, f"{named} changes plain text, and llama.cpp has no such step"
    return Fate.NOTED, (
        f"{named} is a step that llama.cpp does not have: text that it changes gets other token ids"
    )


def _nfc(step: Any, parts: Parts) -> tuple[Fate, str]:
    return Fate.NOTED, (
        "llama.cpp does not compose characters (NFC), the tokenizer does: a letter followed by a "
        "combining mark gets other token ids"
    )


def _replace(step: Any, parts: Parts) -> tuple[Fate, str]:
    pattern = step.get("pattern") or {}
    spaces = pattern.get("String") == " " or pattern.get("Regex") == " "
    if spaces and step.get("content") == SPACE and not parts.bytes_:
        return Fate.CARRIED, ""
    return _changes(step, parts)


def _prepend(step: Any, parts: Parts) -> tuple[Fate, str]:
    if step.get("prepend") == SPACE and not parts.bytes_:
        return Fate.CARRIED, ""
    return _changes(step, parts)


def _bert(step: Any, parts: Parts) -> tuple[Fate, str]:
    """Of a vocabulary of words: a step of llama.cpp, which cleans texts always."""
    if not parts.words:
        return _changes(step, parts)
    off = [f for f in ("clean_text", "handle_chinese_chars") if step.get(f, True) is not True]
    if not off:
        return Fate.CARRIED, ""
    return Fate.NOTED, (
        f"the tokenizer's normalizer has {' and '.join(off)} off, llama.cpp does both always: "
        "control characters and Chinese text get other token ids"
    )


_LACKS = (
    "no step of llama.cpp: refused where it changes plain text, else named in a note; of Unigram "
    "those of SentencePiece are `precompiled_charsmap` and `remove_extra_whitespaces`"
)
TABLE = (
    Field(name="NFC", how="no step of llama.cpp: named in a note", judge=_nfc),
    Field(
        name="Replace",
        how="a space by ▁ in vocabularies like SentencePiece's is carried; else as NFKC",
        judge=_replace,
    ),
    Field(
        name="Prepend",
        how="▁ in vocabularies like SentencePiece's is `add_space_prefix`; else as NFKC",
        judge=_prepend,
    ),
    *(
        Field(name=name, how=_LACKS, judge=_changes)
        for name in (
            "NFKC",
            "NFD",
            "NFKD",
            "Lowercase",
            "StripAccents",
            "Strip",
            "Nmt",
            "Precompiled",
            "ByteLevel",
        )
    ),
    Field(
        name="BertNormalizer",
        how="of WordPiece `normalizer.lowercase` and `normalizer.strip_accents`; else as NFKC",
        judge=_bert,
    ),
)
