"""Answers held to a JSON schema, by llguidance: which token may come next."""

from __future__ import annotations

import importlib
import importlib.util
import json
from functools import cache
from typing import Any

from kanna.serving.engines import tool_schema
from kanna.serving.engines._host import Refused
from kanna.serving.engines._text import Text

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def guide_for(text: Text, vocab_size: int, body: dict[str, Any]) -> Any:
    """A matcher for what the answer has to be, or None.

    Raises Refused for a schema that cannot be held.
    """
    wanted = body.get("response_format") or {}
    kind = wanted.get("type", "text")
    schema: Any = tool_schema.schema(body.get("tools") or [], body.get("tool_choice"))
    if schema is None and kind == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema") or wanted.get("schema") or {}
    elif schema is None and kind == "json_object":
        schema = wanted.get("schema") or {"type": "object"}
    elif kind not in {"text", "json_schema", "json_object"}:
        raise Refused(
            f"response_format has the type {kind!r}, known are text, json_object and json_schema"
        )
    if schema is None:
        return None
    if importlib.util.find_spec("llguidance") is None:
        raise Refused(
            "this engine needs llguidance to hold an answer to a schema, which is not installed"
        )
    library: Any = importlib.import_module("llguidance")
    try:
        # Without free white space: small models lose themselves in it.
        grammar = library.LLMatcher.grammar_from_json_schema(
            json.dumps({"x-guidance": _STYLE, **schema})
        )
        matcher = library.LLMatcher(_tokenizer(text, vocab_size), grammar)
    except Exception as error:
        raise Refused(f"the schema cannot be held: {error}") from error
    if matcher.is_error():
        raise Refused(f"the schema cannot be held: {matcher.get_error()}")
    return matcher


@cache
def _tokenizer(text: Text, vocab_size: int) -> Any:
    library: Any = importlib.import_module("llguidance")
    end = min(text.eog) if text.eog else None
    return library.LLTokenizer(text.tokenizer.to_str(), n_vocab=vocab_size, eos_token=end)
