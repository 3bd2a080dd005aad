"""Answers held to a JSON schema by llguidance, which says what token may come next."""

from __future__ import annotations

import importlib
import importlib.util
import json
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna.serving.engines import tool_calls
from kanna.serving.engines._http_server import BadRequestError
from kanna.serving.engines._text_codec import TextCodec
from kanna.serving.engines.guidance import grammar_of_schema


class Grammar:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> None:
        """Advance by the token that was chosen."""
        self._matcher.consume_token(token)

    def allowed(self, vocab_size: int) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocab_size]."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.zeros(vocab_size, bool)
        unpacked = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)
        mask[: len(unpacked)] = unpacked
        return mask


def grammar_of(text: TextCodec, vocab_size: int, body: dict[str, Any]) -> Grammar | None:
    """The grammar that the answer to a request must follow, or None where it is free.

    Raises:
        BadRequestError: The schema cannot be enforced.
    """
    schema = _schema(body)
    if schema is None:
        return None
    if importlib.util.find_spec("llguidance") is None:
        raise BadRequestError(
            "this engine needs llguidance to hold an answer to a schema, which is not installed"
        )
    library: Any = importlib.import_module("llguidance")
    try:
        grammar = grammar_of_schema(json.dumps(schema))
        matcher = library.LLMatcher(_tokenizer(text, vocab_size), grammar)
    except Exception as error:
        raise BadRequestError(f"the schema cannot be held: {error}") from error
    if matcher.is_error():
        raise BadRequestError(f"the schema cannot be held: {matcher.get_error()}")
    return Grammar(matcher)


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    response_format = body.get("response_format") or {}
    kind = response_format.get("type", "text")
    schema = tool_calls.schema(body.get("tools") or [], body.get("tool_choice"))
    if schema is not None:
        return schema
    if body.get("json_schema"):
        return body["json_schema"]
    if kind == "json_schema":
        wrapped = response_format.get("json_schema") or {}
        return wrapped.get("schema") or response_format.get("schema") or {}
    if kind == "json_object":
        return response_format.get("schema") or {"type": "object"}
    if kind != "text":
        raise BadRequestError(
            f"response_format has the type {kind!r}, known are text, json_object and json_schema"
        )
    return None


@cache
def _tokenizer(text: TextCodec, vocab_size: int) -> Any:
    library: Any = importlib.import_module("llguidance")
    end = min(text.end_ids) if text.end_ids else None
    return library.LLTokenizer(text.tokenizer.to_str(), n_vocab=vocab_size, eos_token=end)
