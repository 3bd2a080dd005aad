"""An answer put together from several engine requests, one per choice."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kanna.serving import logprobs, relay, sse, tool_choice
from kanna.serving.backend import Backend
from kanna.serving.disconnect import cancel_and_wait
from kanna.serving.echo import echoed_prompt
from kanna.serving.logprobs import ScoredText
from kanna.serving.model_call import ModelCall
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError
from kanna.serving.relay import TokenUsage

_CHAT_FIELDS = ("n", "stream_options")
_COMPLETION_FIELDS = (*_CHAT_FIELDS, "echo", "logprobs", "best_of")
"""Fields that the gateway answers itself."""
_Part = bytes | BaseException | None


@dataclass(slots=True, kw_only=True)
class _EngineRequest:
    """The request for one choice.

    Attributes:
        index: Of the choice.
        body: What the engine is sent.
        counts_prompt: Whether its prompt is part of the usage: each prompt counts once.
    """

    index: int
    body: dict[str, Any]
    counts_prompt: bool
    usage: TokenUsage = field(default_factory=TokenUsage)

    @property
    def generates(self) -> bool:
        """False where only the prompt is echoed."""
        return self.body.get("max_tokens") != 0


class MultiChoiceResponse:
    """Several choices, each an engine request, no more at a time than there are slots."""

    def __init__(self, call: ModelCall, pool: ModelPool) -> None:
        self.call, self.pool = call, pool
        self.echo = bool(call.body.get("echo"))
        self.top: int | None = None if call.is_chat else call.body.get("logprobs")
        self.id = f"{'chatcmpl' if call.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        n = call.body.get("n") or 1
        self.requests = [
            self._request(prompt, nth, index=i * n + nth)
            for i, prompt in enumerate(call.prompts)
            for nth in range(n)
        ]
        self.turns = asyncio.Semaphore(pool.settings.slots)

    def _request(self, prompt: Any, nth: int, *, index: int) -> _EngineRequest:
        own_fields = _CHAT_FIELDS if self.call.is_chat else _COMPLETION_FIELDS
        body = {k: v for k, v in self.call.body.items() if k not in own_fields}
        if prompt is not None:
            body["prompt"] = prompt
        if self.top is not None:
            body["logprobs"] = max(1, self.top)  # llama.cpp takes 0 for none
        if nth and body.get("seed") is not None:
            body["seed"] += nth  # the same seed would give the same text
        return _EngineRequest(index=index, body=body, counts_prompt=nth == 0)

    async def _finish(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Stop what still runs, and add up what all have used."""
        for task in tasks:
            task.cancel()
        for task in tasks:
            await cancel_and_wait(task)
        usage = self.call.usage
        usage.prompt = sum(r.usage.prompt for r in self.requests if r.counts_prompt)
        usage.completion = sum(r.usage.completion for r in self.requests)

    def _shared_fields(self, kind: Any) -> dict[str, Any]:
        """The fields that all chunks of one answer share."""
        return {"id": self.id, "created": self.created, "object": kind}

    async def _echo(self, backend: Backend, request: _EngineRequest) -> ScoredText | None:
        if not self.echo:
            return None
        return await echoed_prompt(
            self.call, self.pool, backend, request.body, request.usage, self.top
        )

    # Whole

    async def whole(self) -> bytes:
        """The answer as one JSON text."""
        tasks = [asyncio.ensure_future(self._answer(request)) for request in self.requests]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            await self._finish(tasks)
        whole = dict(answers[0]) | self._shared_fields(answers[0].get("object"))
        whole.pop("timings", None)
        whole["choices"] = [choice for answer in answers for choice in answer["choices"]]
        whole["usage"] = self.call.usage.to_dict()
        return json.dumps(whole, ensure_ascii=False).encode()

    async def _answer(self, request: _EngineRequest) -> dict[str, Any]:
        call = self.call
        async with self.turns, self.pool.slot(call.model) as backend:
            echo = await self._echo(backend, request)
            answer: dict[str, Any]
            if request.generates:
                body = request.body | {"stream": False}
                body, forced = await tool_choice.prepare(backend, body)
                answer = json.loads(await relay.fetch(backend, call.path, body, request.usage))
                if forced:
                    tool_choice.convert_answer(answer)
            else:
                answer = {
                    "object": "text_completion",
                    "model": call.model.name,
                    "choices": [{"text": "", "finish_reason": "length"}],
                }
        for choice in answer["choices"]:
            choice["index"] = request.index
            if not call.is_chat:
                self._prepend(choice, echo or ScoredText())
        return answer

    def _prepend(self, choice: dict[str, Any], echo: ScoredText) -> None:
        """Put the echo before a completion, and its log-probabilities before those of the text."""
        choice["text"] = echo.text + choice["text"]
        if self.top is None:
            choice["logprobs"] = None
        else:
            tokens = logprobs.from_chat(choice.get("logprobs"))
            choice["logprobs"] = echo.completion_logprobs(tokens, self.top)

    # Streamed

    async def stream(self) -> AsyncGenerator[bytes]:
        """The answer as events, those of all choices as they come."""
        call = self.call
        parts: asyncio.Queue[_Part] = asyncio.Queue(64)
        tasks = [asyncio.ensure_future(self._events(r, parts)) for r in self.requests]
        try:
            running = len(tasks)
            while running:
                part = await parts.get()
                if part is None:
                    running -= 1
                elif isinstance(part, BaseException):
                    raise part
                else:
                    yield part
        finally:
            await self._finish(tasks)
        if call.include_usage:
            kind = "chat.completion.chunk" if call.is_chat else "text_completion"
            usage = {"model": call.model.name, "choices": [], "usage": call.usage.to_dict()}
            yield sse.encode(self._shared_fields(kind) | usage)
        yield sse.DONE

    async def _events(self, request: _EngineRequest, parts: asyncio.Queue[_Part]) -> None:
        """Put the events of one choice into the queue, then None, or the error that ended it."""
        try:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    shared = self._shared_fields(chunk.get("object"))
                    await parts.put(sse.encode(chunk | shared))
            await parts.put(None)
        except ApiError as problem:
            await parts.put(problem)

    async def _chunks(self, request: _EngineRequest) -> AsyncGenerator[dict[str, Any]]:
        call = self.call
        async with self.turns, self.pool.slot(call.model) as backend:
            echo = await self._echo(backend, request)
            if echo:
                yield self._echo_chunk(request, echo)
            if not request.generates:
                return
            body, forced = await tool_choice.prepare(backend, request.body)
            events = relay.stream(
                backend,
                call.path,
                body | {"stream": True, "stream_options": {"include_usage": True}},
                request.usage,
                self.pool.metrics,
                started=call.started,
                include_usage=False,
            )
            offset = len(echo.text) if echo else 0
            converted = tool_choice.ToolCallStream() if forced else None
            async with aclosing(events):
                async for chunk in sse.chunks(events):
                    offset += self._adapt(chunk, request.index, offset)
                    for adapted in converted.feed(chunk) if converted else [chunk]:
                        yield adapted

    def _echo_chunk(self, request: _EngineRequest, echo: ScoredText) -> dict[str, Any]:
        choice = {
            "index": request.index,
            "text": echo.text,
            "logprobs": None if self.top is None else echo.completion_logprobs([], self.top),
            "finish_reason": None if request.generates else "length",
        }
        return {"object": "text_completion", "model": self.call.model.name, "choices": [choice]}

    def _adapt(self, chunk: dict[str, Any], index: int, offset: int) -> int:
        """Give an engine's chunk its index and shape; returns the characters of its text."""
        chunk.pop("usage", None)
        chunk.pop("timings", None)
        length = 0
        for choice in chunk.get("choices") or ():
            choice["index"] = index
            if not self.call.is_chat:
                tokens = logprobs.from_chat(choice.get("logprobs"))
                text = ScoredText(offset=offset + length)
                choice["logprobs"] = (
                    None if self.top is None else text.completion_logprobs(tokens, self.top)
                )
                length += len(choice["text"])
        return length
