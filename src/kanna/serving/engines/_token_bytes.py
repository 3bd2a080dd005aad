"""Text of tokens as they come, where a character may be spread over several.

A token of a byte-level vocabulary is bytes in disguise, and one of a vocabulary with byte fallback
may be a single byte. Those are decoded as UTF-8 in the order they come: a character waits for its
last byte, and bytes that are none become U+FFFD, whatever comes after them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_CONTEXT = 4
"""Tokens before one that may change how it is written: a leading space, a word's end."""


class TokenBytes:
    """The bytes of a tokenizer's tokens, of those that are bytes."""

    def __init__(self, tokenizer: Any, added: dict[int, str]) -> None:
        self._tokenizer, self._added = tokenizer, added
        kinds = _decoder_kinds(tokenizer)
        self._byte_level, self._fallback = "ByteLevel" in kinds, "ByteFallback" in kinds
        self._known: dict[int, bytes | None] = {}

    def of(self, token: int) -> bytes | None:
        """The bytes of a token; None where it is text."""
        if token not in self._known:
            self._known[token] = self._find(token)
        return self._known[token]

    def _find(self, token: int) -> bytes | None:
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""  # the model has more rows than the tokenizer tokens
        if token in self._added and not self._fallback:
            return None
        if self._byte_level:
            table = _byte_table()
            known = all(character in table for character in name)
            return bytes(table[c] for c in name) if known else name.encode()
        match = _FALLBACK.fullmatch(name) if self._fallback else None
        return bytes([int(match[1], 16)]) if match else None


class StreamDecoder:
    """Text of the tokens of one answer as they come, without control tokens.

    Args:
        tokenizer: Of the model.
        token_bytes: Of its tokens.
        skipped: Ids of control tokens.
        before: What the answer goes on with; empty: it begins a text.
    """

    def __init__(
        self,
        tokenizer: Any,
        token_bytes: TokenBytes,
        skipped: frozenset[int],
        before: Sequence[int] = (),
    ) -> None:
        self._tokenizer, self._bytes, self._skipped = tokenizer, token_bytes, skipped
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._before = list(before)

    def step(self, token: int) -> str:
        """The text that is complete with this token."""
        if token in self._skipped:
            return ""
        data = self._bytes.of(token)
        text = self.flush() + self._written(token) if data is None else self._utf8.decode(data)
        self._before = [*self._before[1 - _CONTEXT :], token]
        return text

    def flush(self) -> str:
        """A character that was never completed, as U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text

    def _written(self, token: int) -> str:
        before = self._decode(self._before)
        return self._decode([*self._before, token])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False)) if ids else ""


def _decoder_kinds(tokenizer: Any) -> set[str]:
    """Names of the steps of a tokenizer's decoder."""
    if tokenizer.decoder is None:
        return set()
    decoder = json.loads(tokenizer.decoder.__getstate__())
    return {step["type"] for step in [decoder, *decoder.get("decoders", ())]}


@cache
def _byte_table() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable characters of Latin-1 stand for themselves; the other bytes follow from U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
