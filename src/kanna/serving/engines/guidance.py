"""JSON schemas as llguidance takes them."""

from __future__ import annotations

import importlib
import json
from typing import Any

LLGUIDANCE = "%llguidance"
"""How a grammar in llguidance's own notation begins."""
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Without free white space, in which small models lose themselves."""


def grammar_of_schema(text: str) -> str:
    """The grammar of a JSON schema, as its matcher takes it; raises what llguidance raises."""
    library: Any = importlib.import_module("llguidance")
    schema = {"x-guidance": STYLE, **json.loads(text)}
    return str(library.LLMatcher.grammar_from_json_schema(json.dumps(schema)))
