"""Schemas on trial in llguidance: compiled, and a few tokens of an answer tried."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

from kanna.serving.engines.guidance import LLGUIDANCE, grammar_of_schema

Attempt = Callable[[str, str], str]
"""Why the compiler refuses a constraint of a kind, or ""; ends with the process if it takes more
than the process may."""
_STEPS = 48


def prepare(_: str) -> Attempt:
    """A function that tries schemas, and grammars in llguidance's notation."""
    library: Any = importlib.import_module("llguidance")
    tokenizer = library.LLTokenizer(library.TokenizerWrapper(_Bytes()))

    def attempt(kind: str, text: str) -> str:
        if kind == "schema":
            grammar = grammar_of_schema(text)
        else:
            grammar = text.removeprefix(LLGUIDANCE).lstrip(" {}")
        matcher = library.LLMatcher(tokenizer, grammar)
        choices = random.Random(0)  # the same trial each time
        for _ in range(_STEPS):
            if matcher.is_error():
                return str(matcher.get_error())
            if matcher.is_stopped():
                break
            bits = int.from_bytes(matcher.compute_bitmask(), "little")
            allowed = [byte for byte in range(256) if bits >> byte & 1]
            if not allowed:
                break
            matcher.consume_token(choices.choice(allowed))
        return ""

    return attempt


class _Bytes:
    """A vocabulary of the 256 bytes, as llguidance asks for one."""

    eos_token_id, bos_token_id, unk_token_id = 256, None, None
    special_token_ids = [256]
    tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]

    def __call__(self, text: str | bytes) -> list[int]:
        """Ids of a text."""
        return list(text if isinstance(text, bytes) else text.encode())
