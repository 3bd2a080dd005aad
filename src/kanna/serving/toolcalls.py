"""Tools of a chat: whether the model can be shown them, and calls that have to be made.

llama.cpp takes `tool_choice: required` for a wish: the model may talk first, for as long as it
likes. So the answer is held to a schema of calls, as engines in Python do themselves, and becomes
calls here. A model whose chat template has no place for tools is told of them in a system message.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from kanna.serving import http_client
from kanna.serving.backend import Backend
from kanna.serving.engines import tool_schema
from kanna.serving.http_client import LineError
from kanna.serving.problems import ApiError

_TOLD = 'Answer by calling one of these functions, as {"name": …, "arguments": {…}}:\n'


async def prepared(backend: Backend, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A chat as its engine understands it, and whether its answer becomes calls here.

    Raises ApiError for tools that the model may call and could not be shown.
    """
    tools = body.get("tools")
    if not tools:
        return body, False
    forced = body.get("tool_choice") == "required"
    shown = (await _template(backend)).get("supports_tools", True)
    if not shown and not forced:
        raise ApiError(
            400,
            f"the chat template of {backend.config.name!r} has no place for tools: the model cannot be "
            "shown them; with tool_choice `required` it is told of them, and calls one",
            code="tools_not_supported",
            param="tools",
        )
    if not forced:
        return body, False
    body = dict(body)
    if not shown:
        body["messages"] = _told(body["messages"], tools)
    if backend.engine.forces_calls:
        return body, False
    body["tool_choice"] = "auto"
    body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"schema": tool_schema.schema(tools, "required")},
    }
    if not shown:
        del body["tools"], body["tool_choice"]
    return body, True


async def _template(backend: Backend) -> dict[str, Any]:
    """What the engine says of the chat template, asked once."""
    process = backend.main
    if "template" not in process.facts:
        found: Any = None
        with suppress(LineError, ValueError, TypeError, KeyError):
            answer = await http_client.send(process.port, "GET", "/props", process.head)
            try:
                found = json.loads(await answer.read())["chat_template_caps"]
            finally:
                answer.close()
        process.facts["template"] = found if isinstance(found, dict) else {}
    return process.facts["template"]


def _told(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = _TOLD + json.dumps([t["function"] for t in tools], ensure_ascii=False)
    first, *rest = messages
    if first["role"] == "system" and isinstance(first.get("content"), str):
        return [first | {"content": f"{first['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, *messages]


def whole(answer: dict[str, Any]) -> None:
    """Make calls of what every choice says, in place; one that was cut short stays text."""
    for choice in answer.get("choices") or ():
        message = choice["message"]
        calls, _ = tool_schema.read(message.get("content") or "")
        if calls:
            message |= {"content": None, "tool_calls": calls}
            choice["finish_reason"] = "tool_calls"
            choice.pop("logprobs", None)


class Streamed:
    """The same of a stream of one choice: what is said is kept until it is whole."""

    def __init__(self) -> None:
        self._said = ""

    def feed(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunks that go on when `chunk` has come."""
        if not chunk.get("choices"):
            return [chunk]
        [choice] = chunk["choices"]
        delta = choice.get("delta") or {}
        self._said += delta.get("content") or ""
        end = choice.get("finish_reason")
        if not end:
            return [chunk] if delta.get("role") and not delta.get("content") else []
        calls, _ = tool_schema.read(self._said)
        shared = {k: v for k, v in choice.items() if k != "logprobs"}
        said = (
            {"tool_calls": [{"index": i, **c} for i, c in enumerate(calls)]}
            if calls
            else {"content": self._said}
        )
        last = shared | {"delta": {}, "finish_reason": "tool_calls" if calls else end}
        first = shared | {"delta": said, "finish_reason": None}
        return [
            {k: v for k, v in chunk.items() if k != "usage"} | {"choices": [first]},
            chunk | {"choices": [last]},
        ]
