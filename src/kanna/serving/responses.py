"""How a chat or a completion is answered: by one engine request, or by several.

An engine answers one choice of one prompt. Several prompts, `n` choices, the prompt echoed and
OpenAI's older shape of log-probabilities are the gateway's own, the same for every engine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from kanna.serving import relay, sse, tool_choice
from kanna.serving.model_call import ModelCall
from kanna.serving.multi_choice import MultiChoiceResponse
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError

MAX_CHOICES = 256
"""Choices of one request, over all its prompts."""


class ResponseBuilder(Protocol):
    """What answers one request; one of its methods is called, once."""

    async def whole(self) -> bytes:
        """The answer as one JSON text."""
        ...

    def stream(self) -> AsyncGenerator[bytes]:
        """The answer as events, one or more whole ones at a time."""
        ...


def build(call: ModelCall, pool: ModelPool) -> ResponseBuilder:
    """The simplest way to answer a request.

    Raises:
        ApiError: 400: it asks for too many choices.
    """
    body, prompts = call.body, call.prompts
    n = body.get("n") or 1
    reshaped = not call.is_chat and (body.get("echo") or body.get("logprobs") is not None)
    if len(prompts) == n == 1 and not reshaped:
        return RelayedResponse(call, pool)
    count = len(prompts) * n
    if count > MAX_CHOICES:
        raise ApiError(
            400, f"{count} choices in one request, at most {MAX_CHOICES} are allowed", param="n"
        )
    return MultiChoiceResponse(call, pool)


class RelayedResponse:
    """The answer of one engine request, which goes on as it comes."""

    def __init__(self, call: ModelCall, pool: ModelPool) -> None:
        self.call, self.pool = call, pool
        self.body = {k: v for k, v in call.body.items() if k != "n"}
        [prompt] = call.prompts
        if prompt is not None:
            self.body["prompt"] = prompt

    async def whole(self) -> bytes:
        """The answer as one JSON text."""
        call = self.call
        async with self.pool.slot_or_canary(call.model, call.path, self.body) as backend:
            body, forced = await tool_choice.prepare(backend, self.body)
            data = await relay.fetch(backend, call.path, body, call.usage)
        if not forced:
            return data
        answer = json.loads(data)
        tool_choice.convert_answer(answer)
        return json.dumps(answer, ensure_ascii=False).encode()

    async def stream(self) -> AsyncGenerator[bytes]:
        """The answer as events."""
        call = self.call
        options = {**(self.body.get("stream_options") or {}), "include_usage": True}
        self.body["stream_options"] = options
        async with self.pool.slot_or_canary(call.model, call.path, self.body) as backend:
            body, forced = await tool_choice.prepare(backend, self.body)
            events = relay.stream(
                backend,
                call.path,
                body,
                call.usage,
                self.pool.metrics,
                started=call.started,
                include_usage=call.include_usage,
            )
            async with aclosing(events):
                if not forced:
                    async for part in events:
                        yield part
                    return
                converted = tool_choice.ToolCallStream()
                async for chunk in sse.chunks(events):
                    for converted_chunk in converted.feed(chunk):
                        yield sse.encode(converted_chunk)
                yield sse.DONE
