"""The vocabulary in GGUF's terms: token texts, types, scores and merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from typing import Any

from kanna.errors import SourceError, UnsupportedError
from kanna.model import MetaValue
from kanna.tokenizer import _pre
from kanna.tokenizer._json import Merges

SPACE = "▁"
_MOST_GAPS = 1 << 20
UNUSED_SCORE, ADDED_SCORE = -10000.0, -1000.0


class Type(IntEnum):
    """GGUF token types."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(slots=True, kw_only=True)
class Vocab:
    """A vocabulary as a GGUF has it.

    Attributes:
        model: `gpt2` (byte-level BPE), `llama` (SentencePiece's BPE), `bert` (WordPiece) or `t5`
            (Unigram).
        pre: llama.cpp's name of how text is split before.
        tokens: Texts by id.
        types: Their types.
        scores: Of SentencePiece's kinds.
        merges: Of byte-level BPE.
        space_prefix: Whether a text gets a space before it; None: not a question of this kind.
        keys: Further keys, of this kind alone.
        notes: What llama.cpp does otherwise.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    space_prefix: bool | None = None
    keys: dict[str, MetaValue] = field(default_factory=dict[str, MetaValue])
    notes: list[str] = field(default_factory=list[str])


def looks_special(text: str) -> bool:
    """Whether an added token is a control token in all but its flag, as several models have it."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def from_bpe(tokenizer: dict[str, Any], rows: int | None, surplus: frozenset[str]) -> Vocab:
    """Vocabulary of a tokenizer.json with a BPE model.

    Args:
        tokenizer: The parsed file.
        rows: Rows of the embedding, to which the vocabulary is padded; None: as many as tokens.
        surplus: Added tokens that may lie beyond the rows and are dropped there.
    """
    model = tokenizer["model"]
    if model.get("byte_fallback"):
        return _sentencepiece_like(tokenizer, model, rows, surplus)
    return _byte_level(tokenizer, model, rows, surplus)


def check_ids(size: int, count: int) -> None:
    """Raise SourceError for ids that leave far more gaps than a vocabulary has tokens.

    Args:
        size: The largest id and one.
        count: How many tokens there are.
    """
    if size > max(_MOST_GAPS, 16 * count):
        raise SourceError(
            f"the tokenizer has {count} tokens, and the id {size - 1}",
            expected="ids one after another, with few gaps",
            todo="fetch the tokenizer files again",
        )


def place(entries: dict[int, str], rows: int | None, surplus: frozenset[str]) -> list[str | None]:
    """Texts by id; None where no token is.

    Raises when ids go beyond the embedding or two tokens share a text.
    """
    size = max(entries, default=-1) + 1
    check_ids(size, len(entries))
    if rows is not None and size > rows:
        beyond = [t for i, t in sorted(entries.items()) if i >= rows and t not in surplus]
        if beyond:
            raise UnsupportedError(
                f"the tokenizer has {size} tokens, the embedding {rows} rows; beyond it: "
                + ", ".join(beyond[:5]),
                expected="no more tokens than rows",
                todo="resize the embeddings (resize_token_embeddings) or give the tokenizer it was "
                "made with",
            )
    tokens: list[str | None] = [None] * (rows if rows is not None else size)
    for i, text in entries.items():
        if 0 <= i < len(tokens):
            tokens[i] = text
    return tokens


def token_texts(model: Mapping[str, Any], added: list[dict[str, Any]]) -> dict[int, str]:
    """Texts by id: those of the vocabulary, and the added tokens; SourceError for broken ones."""
    try:
        entries = {int(i): str(t) for t, i in model["vocab"].items()}
        entries |= {int(a["id"]): str(a["content"]) for a in added}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            "tokenizer.json is damaged", expected="tokens with ids", todo="fetch it again"
        ) from error
    if min(entries, default=0) < 0:
        raise SourceError("tokenizer.json has negative token ids", todo="fetch it again")
    return entries


def _byte_level(
    tok: dict[str, Any], model: dict[str, Any], rows: int | None, surplus: frozenset[str]
) -> Vocab:
    pre = _pre.detect(tok)
    added = tok.get("added_tokens") or []
    texts = place(token_texts(model, added), rows, surplus)
    tokens, types = fill(texts)
    for a in added:
        if (i := int(a["id"])) < len(tokens):
            # Its ▁ is a character like any other: spaces are in the byte alphabet.
            text = str(a["content"])
            tokens[i], types[i] = text, added_token(text, bool(a.get("special")))[1]
    check_unique(tokens)
    return Vocab(model="gpt2", pre=pre, tokens=tokens, types=types, merges=_merges(model))


def _sentencepiece_like(
    tok: dict[str, Any], model: dict[str, Any], rows: int | None, surplus: frozenset[str]
) -> Vocab:
    """BPE with byte fallback is SentencePiece's: llama.cpp merges by score, so ranks become scores.

    A piece's score is minus the position at which merging first makes it; that is the order
    SentencePiece trained it in, whatever its id.
    """
    added = tok.get("added_tokens") or []
    texts = place(token_texts(model, added), rows, surplus)
    tokens, types = fill(texts)
    pieces = dict.fromkeys(chain.from_iterable(_pieces(model)))
    rank = dict(zip(pieces, range(len(pieces)), strict=True))
    scores = [
        UNUSED_SCORE if texts[i] is None else -float(rank.get(t, len(rank)))
        for i, t in enumerate(tokens)
    ]
    unknown = model.get("unk_token")
    for i, text in enumerate(texts):
        if text is None:
            continue
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[i], scores[i] = Type.BYTE, 0.0
        elif text == unknown:
            types[i], scores[i] = Type.UNKNOWN, 0.0
    for a in added:
        i, text = int(a["id"]), str(a["content"])
        if i >= len(tokens) or (text == unknown and types[i] == Type.UNKNOWN):
            continue
        tokens[i], types[i] = added_token(text, bool(a.get("special")))
        scores[i] = ADDED_SCORE
    check_unique(tokens)
    return Vocab(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        space_prefix=_space_prefix(tok),
    )


def added_token(text: str, special: bool) -> tuple[str, int]:
    """An added token as llama.cpp looks for it, and its type."""
    if special or looks_special(text):
        return text, Type.CONTROL
    # llama.cpp looks for user-defined tokens in raw text, where a space is a space.
    return text.replace(SPACE, " "), Type.USER_DEFINED


def fill(texts: list[str | None]) -> tuple[list[str], list[int]]:
    """Every row gets a token: rows the tokenizer does not know become unused ones."""
    tokens = [f"[PAD{i}]" if t is None else t for i, t in enumerate(texts)]
    return tokens, [Type.UNUSED if t is None else Type.NORMAL for t in texts]


def check_unique(tokens: list[str]) -> None:
    """llama.cpp aborts on two tokens with one text."""
    if len(set(tokens)) == len(tokens):
        return
    seen: set[str] = set()
    for i, text in enumerate(tokens):
        if text in seen:
            raise UnsupportedError(
                f"two tokens have the text {text!r} (the second is {i})",
                expected="every token once, or llama.cpp does not load the file",
                todo="remove the duplicate from the added tokens",
            )
        seen.add(text)


def _pieces(model: dict[str, Any]) -> Iterator[list[str]]:
    """What each merge makes, in order, some thousands at a time."""
    merges = model.get("merges") or []
    try:
        for batch in merges.lists() if isinstance(merges, Merges) else [merges]:
            yield [m.replace(" ", "", 1) if isinstance(m, str) else "".join(m) for m in batch]
    except TypeError as error:
        raise SourceError(
            "tokenizer.json has a merge that is not a pair", todo="fetch it again"
        ) from error


def _merge_pairs(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Both spellings: `"left right"`, and `["left", "right"]` since parts may hold spaces."""
    try:
        for merge in model.get("merges") or []:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            yield left, right
    except (TypeError, ValueError) as error:
        raise SourceError(
            "tokenizer.json has a merge that is not a pair", todo="fetch it again"
        ) from error


def _merges(model: dict[str, Any]) -> list[str]:
    """Merges as `left right`; a space inside a part is written as the byte alphabet writes it."""
    merges = [f"{a.replace(' ', 'Ġ')} {b.replace(' ', 'Ġ')}" for a, b in _merge_pairs(model)]
    if not merges:
        raise UnsupportedError(
            "tokenizer.json has no merges",
            expected="BPE merges",
            todo="give the model's own tokenizer",
        )
    return merges


def _space_prefix(tok: dict[str, Any]) -> bool:
    """Whether text gets a space in front: a Prepend normalizer or Metaspace that prepends."""
    normalizer, pre = tok.get("normalizer") or {}, tok.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(s.get("type") == "Prepend" for s in steps):
        return True
    for step in pre.get("pretokenizers", [pre]):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme") or (
                "always" if step.get("add_prefix_space", True) else "never"
            )
            return scheme != "never"
    return False
