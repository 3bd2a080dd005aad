"""Tool calls in the text of an answer, and the JSON schema that forces them.

A call is `<tool_call>{"name", "arguments"}</tool_call>`, or that object alone.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.S)


def parse(text: str) -> tuple[list[dict[str, Any]], str]:
    """Split an answer into its tool calls and the rest of its text.

    Returns:
        Calls in OpenAI's shape and the text around them; no calls and the whole text when none can
        be understood.
    """
    parsed = [_parse_call(match) for match in _CALL.findall(text)]
    if not parsed and text.lstrip().startswith("{"):
        parsed, remainder = [_parse_call(text)], ""
    else:
        remainder = _CALL.sub("", text).strip()
    calls = [call for call in parsed if call]
    return (calls, remainder) if calls else ([], text)


def _parse_call(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", value.get("parameters", {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": str(name), "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def schema(tools: list[dict[str, Any]], choice: Any) -> dict[str, Any] | None:
    """The JSON schema of an answer that has to call one of `tools`; None when it need not."""
    if choice != "required":
        return None
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in (tool["function"] for tool in tools)
    ]
    return {"anyOf": calls} if calls else None
