"""Large schemas of chats as grammars of llguidance, for engines that have it beside their own.

llama.cpp turns a chat's schema into a grammar of its own, which tries all of its ways at every
token: for two thousand values that takes more than a second each, and everybody waits. llguidance,
which the same program carries, takes a millisecond, and is asked by a grammar that says so.
"""

from __future__ import annotations

import json
from typing import Any

from kanna.serving.constraints import is_branching
from kanna.serving.engines.guidance import LLGUIDANCE, STYLE


def prepare(announced: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """A chat as its engine computes it best.

    Args:
        announced: What the engine said when it was ready.
        body: Of the chat, for the engine.
    """
    shape = body.get("response_format") or {}
    if not announced.get("guidance") or body.get("tools") or shape.get("type", "text") == "text":
        return body
    schema = (shape.get("json_schema") or shape).get("schema") or {}
    if not is_branching(schema):
        return body
    # Lenient as llama.cpp is: what it does not know of a schema is left out.
    styled = {"x-guidance": STYLE | {"lenient": True}, **schema}
    grammar = f"{LLGUIDANCE} {{}}\nstart: %json {json.dumps(styled)}\n"
    others = {k: v for k, v in body.items() if k != "response_format"}
    return others | {"grammar": grammar}
