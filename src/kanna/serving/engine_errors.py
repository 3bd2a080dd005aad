"""Errors of engines as clients get them: whose fault it is decides the status."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from kanna.serving import http_client, unparsed
from kanna.serving.engines.base import CONTEXT_EXCEEDED
from kanna.serving.http_client import EngineConnectionError
from kanna.serving.problems import ApiError, engine_down
from kanna.serving.process import EngineProcess

CHAT = "/v1/chat/completions"
_TOO_LONG = "is too large to process"
"""llama.cpp on an input of the embedding engine that is longer than its context."""
_ABOUT_THE_REQUEST = ("json_schema", "grammar", "lora", "invalid token", "must not be empty")
"""Words in failures of llama.cpp's that only the request can cause."""


async def explain(
    process: EngineProcess, path: str, body: dict[str, Any], status: int, text: str
) -> ApiError:
    """The error to answer with.

    llama.cpp answers 500 for much that a client sent wrongly: messages that a chat template
    refuses, schemas and grammars that it cannot read. Such a failure is the request's own when the
    template alone refuses it, too.

    Args:
        process: The engine.
        path: Of the route that was asked.
        body: Of the request.
        status: The engine's.
        text: The engine's answer.
    """
    kind = None
    try:
        error = json.loads(text)["error"]
        message, kind = str(error["message"]), error.get("type")
    except (ValueError, KeyError, TypeError):
        message = text[:300]
    if "initialize samplers" in message:
        message = (
            "llama.cpp cannot hold this answer to a schema; a file without a chat template is one "
            f"cause ({message})"
        )
    if kind == CONTEXT_EXCEEDED or _TOO_LONG in message:
        return ApiError(400, message, code="context_length_exceeded")
    if path == CHAT and unparsed.is_sign(message):
        return ApiError(502, message, "server_error", unparsed.CODE)
    if status == 501:
        return ApiError(501, message, "not_supported_error", "not_supported")
    if status == 503:
        return engine_down(process.config.name, message)
    # llama.cpp answers 500 for ids that it does not have.
    if (
        status < 500
        or path == "/detokenize"
        or await _is_the_requests(process, path, body, message)
    ):
        return ApiError(400, message)
    return ApiError(502, f"the engine failed: {message}", "server_error", "engine_failed")


async def _is_the_requests(
    process: EngineProcess, path: str, body: dict[str, Any], message: str
) -> bool:
    """Whether only another request can be answered."""
    if any(words in message.lower() for words in _ABOUT_THE_REQUEST):
        return True
    if path != CHAT:
        return False
    with suppress(EngineConnectionError):
        response = await http_client.request(
            process.port, "/apply-template", process.raw_headers, json.dumps(body).encode()
        )
        response.close()
        return response.status != 200
    return False
