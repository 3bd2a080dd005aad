"""Answers of a chat that llama.cpp cannot take apart: a tool call that is none, a form of its own.

llama.cpp refuses the whole answer then, although what the model said is text that a client can
read. Other servers pass that text on as the content, without a tool call; so does the gateway.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from kanna.serving import http_client, sse
from kanna.serving.process import EngineProcess

CODE = "unparsed_output"
"""Code of the error that stands for such an answer."""
COMPLETIONS = "/v1/completions"
_SIGNS = ("does not match the expected", "failed to parse input at pos", "invalid diff:")
"""How llama.cpp says it, in lower case."""
_OF_CHATS = frozenset(
    (
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "response_format"),
        *("stream", "stream_options", "chat_template_kwargs", "logprobs", "top_logprobs"),
    )
)
_ERROR = sse.PREFIX + b'{"error"'


def is_sign(message: str) -> bool:
    """Whether an error of llama.cpp's is about what the model said."""
    return any(sign in message.lower() for sign in _SIGNS)


async def as_text(
    process: EngineProcess,
    body: dict[str, Any],
    complete: Callable[[dict[str, Any]], Awaitable[bytes]],
) -> bytes:
    """The answer to a chat as plain text.

    Args:
        process: The engine.
        body: Of the chat.
        complete: Answers the body of a completion.
    """
    response = await http_client.request(
        process.port, "/apply-template", process.raw_headers, json.dumps(body).encode()
    )
    try:
        prompt = json.loads(await response.read())["prompt"]
    finally:
        response.close()
    kept = {name: value for name, value in body.items() if name not in _OF_CHATS}
    answer = json.loads(await complete({**kept, "prompt": prompt}))
    choices = [
        {
            "index": choice.get("index", 0),
            "finish_reason": choice.get("finish_reason"),
            "message": {"role": "assistant", "content": choice.get("text", "")},
        }
        for choice in answer["choices"]
    ]
    return json.dumps({**answer, "object": "chat.completion", "choices": choices}).encode()


def ended_as_text(events: bytes, earlier: bytes, model: str) -> bytes | None:
    """Events in which the refusal of an answer that was streamed is its plain end.

    Args:
        events: Whole ones.
        earlier: Those that came before.
        model: Its name.

    Returns:
        None when no such refusal is among them.
    """
    if _ERROR not in events:
        return None
    passed: list[bytes] = []
    for event in events.split(sse.SEPARATOR):
        if event.startswith(_ERROR) and is_sign(event.decode("utf-8", "replace")):
            known = _last_chunk(b"".join((earlier, *passed))) or {
                "id": f"chatcmpl-{uuid4().hex}",
                "created": int(time.time()),
                "model": model,
                "object": "chat.completion.chunk",
            }
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            kept = {k: v for k, v in known.items() if k not in ("choices", "usage", "timings")}
            return b"".join(passed) + sse.encode({**kept, "choices": [end]}) + sse.DONE
        passed += [event + sse.SEPARATOR] if event else []
    return None


def _last_chunk(events: bytes) -> dict[str, Any] | None:
    chunks = [sse.decode(event) for event in events.split(sse.SEPARATOR)]
    return next((chunk for chunk in reversed(chunks) if chunk and "id" in chunk), None)
