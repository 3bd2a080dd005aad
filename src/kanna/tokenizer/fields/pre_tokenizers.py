"""Steps that split a text before tokens are merged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kanna.tokenizer.fields import unigram
from kanna.tokenizer.fields.base import Fate, Field, Parts, short, steps
from kanna.tokenizer.fields.normalizers import SPACE
from kanna.tokenizer.library import is_failure


def _metaspace(step: Any, parts: Parts) -> tuple[Fate, str]:
    if (fate := unigram.pre_tokenizer(step, parts)) is not None:
        return fate
    if parts.bytes_ or step.get("replacement", SPACE) != SPACE:
        return _splits(step, parts)
    if step.get("split", True) and _cuts(step, parts):
        return _refused(step)
    if scheme(step) == "first":
        return Fate.NOTED, (
            "the tokenizer puts a space before the first word of a text alone, llama.cpp puts one "
            "after every control token too, and before a space: such words get other token ids"
        )
    if scheme(step) == "always":
        return Fate.NOTED, (
            "the tokenizer puts a space before a text only where none is, llama.cpp puts one "
            "always: a text that begins with a space gets other token ids"
        )
    return Fate.CARRIED, ""


def scheme(step: Mapping[str, Any]) -> str:
    """Where a Metaspace step puts a space: `always`, `first` or `never`."""
    given = step.get("prepend_scheme")
    return str(given or ("always" if step.get("add_prefix_space", True) else "never"))


def _splits(step: Any, parts: Parts) -> tuple[Fate, str]:
    """Byte-level vocabularies: the steps as a whole are looked up. Others: no token may be cut.

    Words are split as BERT splits them, and in no other way.
    """
    if (fate := unigram.pre_tokenizer(step, parts)) is not None:
        return fate
    if parts.bytes_ or (parts.words and step.get("type") == "BertPreTokenizer"):
        return Fate.CARRIED, ""
    if parts.words:
        return Fate.REFUSED, (
            f"the pre-tokenizer {short(step)} splits text into other words than BERT's does, and "
            "llama.cpp has no other for such a vocabulary"
        )
    return _refused(step) if _cuts(step, parts) else (Fate.NEUTRAL, "")


def _refused(step: Any) -> tuple[Fate, str]:
    return Fate.REFUSED, (
        f"the pre-tokenizer {short(step)} splits text where a token of the vocabulary goes on, and "
        "llama.cpp does not split with such a vocabulary"
    )


def _cuts(step: Mapping[str, Any], parts: Parts) -> bool:
    """Whether a step splits any token that merging makes: where none is split, all ids stay."""
    replaced = any(
        s.get("type") == "Replace" and s.get("content") == SPACE
        for s in steps(parts.tokenizer.get("normalizer"), "normalizers")
    )
    if step.get("type") == "Split" and replaced and (step.get("pattern") or {}) == {"String": " "}:
        return False  # no space is left to split at
    added = {a.get("content") for a in parts.tokenizer.get("added_tokens") or []}
    vocab = parts.ids
    words = [t for t in vocab if len(t) > 1 and t not in added and not t.startswith("<0x")]
    if step.get("type") == "Metaspace":
        return any(SPACE in word[1:] for word in words)
    splitter = _pre_tokenizer(step)
    try:
        return splitter is None or any(len(splitter.pre_tokenize_str(word)) > 1 for word in words)
    except BaseException as error:
        if not is_failure(error):
            raise
        return True


def _pre_tokenizer(step: Mapping[str, Any]) -> Any:
    import tokenizers

    made = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": dict(step)}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(made)).pre_tokenizer
    except BaseException as error:
        if not is_failure(error):
            raise
        return None


_SPLITS = (
    "byte-level: `pre`, where all steps together are those of one of llama.cpp's, else refused; "
    "of WordPiece BertPreTokenizer alone is carried, of Unigram WhitespaceSplit; others: changes "
    "nothing where no token is split, else refused"
)
TABLE = (
    Field(
        name="Metaspace",
        how="`add_space_prefix`; a prefix scheme of `first` or `always` is named in a note",
        judge=_metaspace,
    ),
    *(
        Field(name=name, how=_SPLITS, judge=_splits)
        for name in (
            "ByteLevel",
            "Split",
            "Digits",
            "Whitespace",
            "WhitespaceSplit",
            "Punctuation",
            "BertPreTokenizer",
            "CharDelimiterSplit",
            "UnicodeScripts",
            "FixedLength",
        )
    ),
)
