"""Calls of tools in what a model says.

`<tool_call>{"name", "arguments"}</tool_call>`, or that object alone.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.S)


def read(text: str) -> tuple[list[dict[str, Any]], str]:
    """Calls, and what is said beside them; no calls when there are none that can be understood."""
    found = [_call(m) for m in _CALL.findall(text)]
    if not found and text.lstrip().startswith("{"):
        found, rest = [_call(text)], ""
    else:
        rest = _CALL.sub("", text).strip()
    calls = [c for c in found if c]
    return (calls, rest) if calls else ([], text)


def _call(text: str) -> dict[str, Any] | None:
    try:
        given = json.loads(text)
        name, arguments = given["name"], given.get("arguments", given.get("parameters", {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": str(name), "arguments": said}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def schema(tools: list[dict[str, Any]], choice: Any) -> dict[str, Any] | None:
    """What an answer must be when a tool has to be called; None when it need not."""
    if choice != "required":
        return None
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": f["name"]},
                "arguments": f.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for f in (t["function"] for t in tools)
    ]
    return {"anyOf": calls} if calls else None
