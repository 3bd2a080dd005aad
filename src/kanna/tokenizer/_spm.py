"""tokenizer.model: SentencePiece's protocol buffer, read for the few fields GGUF needs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.tokenizer._vocab import (
    ADDED_SCORE,
    SPACE,
    UNUSED_SCORE,
    Type,
    Vocab,
    added_token,
    check_unique,
    fill,
    place,
)

_BPE = 2


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    type: int


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of one message: varints as int, everything else as bytes.

    Bounds are checked.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or at + size > end:
            raise FormatError(
                "tokenizer.model is truncated or not SentencePiece's", todo="fetch it again"
            )
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise FormatError(
                "tokenizer.model is truncated or not SentencePiece's", todo="fetch it again"
            )
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, int(Type.NORMAL)
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8", errors="replace")
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def from_model(
    data: bytes, added: dict[int, tuple[str, bool]], rows: int | None, surplus: frozenset[str]
) -> Vocab:
    """Vocabulary of a tokenizer.model.

    Args:
        data: The file, a protocol buffer of SentencePiece.
        added: Id → (text, special) from added_tokens.json and tokenizer_config.json.
        rows: Rows of the embedding, to which the vocabulary is padded; None: as many as tokens.
        surplus: Added tokens that may lie beyond the rows and are dropped there.
    """
    pieces: list[Piece] = []
    algorithm, prefix, notes = 1, True, list[str]()
    for number, value in fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:  # trainer_spec.model_type
            algorithm = next((v for n, v in fields(value) if n == 3 and isinstance(v, int)), 1)
        elif number == 3:  # normalizer_spec.add_dummy_prefix
            spec = dict(fields(value))
            prefix, notes = bool(spec.get(3, True)), _normalizer_notes(spec)
    if not pieces:
        raise SourceError(
            "tokenizer.model holds no tokens",
            expected="SentencePiece's format",
            todo="fetch it again",
        )
    if algorithm != _BPE:
        raise UnsupportedError(
            "tokenizer.model is not a BPE model",
            expected="SentencePiece BPE",
            todo="give a GGUF of this model",
        )
    entries = {i: p.text for i, p in enumerate(pieces)} | {
        i: text for i, (text, _) in added.items()
    }
    texts = place(entries, rows, surplus)
    tokens, types = fill(texts)
    scores = [UNUSED_SCORE if t is None else ADDED_SCORE for t in texts]
    for i, piece in enumerate(pieces[: len(tokens)]):
        # SentencePiece's type numbers are GGUF's.
        tokens[i], types[i], scores[i] = piece.text, piece.type, piece.score
        if piece.type == Type.USER_DEFINED:
            tokens[i] = piece.text.replace(SPACE, " ")
    for i, (text, special) in added.items():
        if i < len(tokens) and types[i] != Type.UNKNOWN:
            tokens[i], types[i] = added_token(text, special)
            scores[i] = ADDED_SCORE
    check_unique(tokens)
    return Vocab(
        model="llama",
        pre="default",
        tokens=tokens,
        types=types,
        scores=scores,
        space_prefix=prefix,
        notes=notes,
    )


def _normalizer_notes(spec: dict[int, int | bytes]) -> list[str]:
    """What SentencePiece does to a text and llama.cpp does not, by its normalizer_spec."""
    notes: list[str] = []
    if spec.get(2):
        name = spec.get(1)
        shown = name.decode("utf-8", "replace") if isinstance(name, bytes) and name else "its own"
        notes.append(
            f"tokenizer.model normalizes texts ({shown}), llama.cpp does not: text that this "
            "changes gets other token ids"
        )
    if spec.get(4, True):
        notes.append(
            "tokenizer.model removes extra spaces, llama.cpp keeps them: several spaces in a row "
            "get other token ids"
        )
    return notes
