"""Tools of a chat: whether the model can be shown them, and answers that have to be calls.

llama.cpp does not enforce `tool_choice: required`: the model may write text first, for as long as
it likes. So the gateway holds the answer to a JSON schema of calls, as engines in Python do
themselves, and turns it into calls. A model whose chat template has no place for tools gets them in
a system message.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from kanna.serving import http_client, schema_grammar
from kanna.serving.backend import Backend
from kanna.serving.constraints import is_branching
from kanna.serving.engines import tool_calls
from kanna.serving.http_client import EngineConnectionError
from kanna.serving.problems import ApiError

_INSTRUCTION = 'Answer by calling one of these functions, as {"name": …, "arguments": {…}}:\n'


async def prepare(backend: Backend, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A chat as its engine understands it.

    Returns:
        The body for the engine, and whether its answer has to be turned into calls.

    Raises:
        ApiError: 400: the model may call tools and could not be shown them.
    """
    body, forced = await _prepare_tools(backend, body)
    return schema_grammar.prepare(backend.main.announced, body), forced


async def _prepare_tools(backend: Backend, body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """`prepare`, for the tools of a chat."""
    tools = body.get("tools")
    if not tools:
        return body, False
    required = body.get("tool_choice") == "required"
    supported = (await _template_capabilities(backend)).get("supports_tools", True)
    if required and backend.main.announced.get("guidance"):
        # llama.cpp takes a grammar and tools not together: large ones stand in a message.
        supported = supported and not is_branching(tool_calls.schema(tools, "required"))
    if not supported and not required:
        raise ApiError(
            400,
            f"the chat template of {backend.config.name!r} has no place for tools: the model "
            "cannot be shown them; with tool_choice `required` it is told of them, and calls one",
            code="tools_not_supported",
            param="tools",
        )
    if not required:
        return body, False
    body = dict(body)
    if not supported:
        body["messages"] = _with_tools(body["messages"], tools)
    if backend.engine.forces_tool_calls:
        return body, False
    body["tool_choice"] = "auto"
    body["response_format"] = {
        "type": "json_schema",
        "json_schema": {"schema": tool_calls.schema(tools, "required")},
    }
    if not supported:
        del body["tools"], body["tool_choice"]
    return body, True


async def _template_capabilities(backend: Backend) -> dict[str, Any]:
    """What the chat template can do, which the engine is asked once."""
    process = backend.main
    if process.template_capabilities is None:
        capabilities: Any = None
        with suppress(EngineConnectionError, ValueError, TypeError, KeyError):
            response = await http_client.request(
                process.port, "/props", process.raw_headers, method="GET"
            )
            try:
                capabilities = json.loads(await response.read())["chat_template_caps"]
            finally:
                response.close()
        process.template_capabilities = capabilities if isinstance(capabilities, dict) else {}
    return process.template_capabilities


def _with_tools(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The messages with the tools in the first system message."""
    text = _INSTRUCTION + json.dumps([t["function"] for t in tools], ensure_ascii=False)
    first, *others = messages
    if first["role"] == "system" and isinstance(first.get("content"), str):
        return [first | {"content": f"{first['content']}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *messages]


def convert_answer(answer: dict[str, Any]) -> None:
    """Turn the text of every choice into calls, in place; text that was cut short stays text."""
    for choice in answer.get("choices") or ():
        message = choice["message"]
        calls, _ = tool_calls.parse(message.get("content") or "")
        if calls:
            message |= {"content": None, "tool_calls": calls}
            choice["finish_reason"] = "tool_calls"
            choice.pop("logprobs", None)


class ToolCallStream:
    """Turns a stream of one choice into calls: its text waits until it is complete."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunks to send when `chunk` has come."""
        if not chunk.get("choices"):
            return [chunk]
        [choice] = chunk["choices"]
        delta = choice.get("delta") or {}
        self._text += delta.get("content") or ""
        finish_reason = choice.get("finish_reason")
        if not finish_reason:
            return [chunk] if delta.get("role") and not delta.get("content") else []
        calls, _ = tool_calls.parse(self._text)
        content: dict[str, Any] = {"content": self._text}
        if calls:
            content = {"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}
            finish_reason = "tool_calls"
        shared = {k: v for k, v in choice.items() if k != "logprobs"}
        first = shared | {"delta": content, "finish_reason": None}
        last = shared | {"delta": {}, "finish_reason": finish_reason}
        return [
            {k: v for k, v in chunk.items() if k != "usage"} | {"choices": [first]},
            chunk | {"choices": [last]},
        ]
