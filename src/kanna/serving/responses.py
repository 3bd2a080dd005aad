"""How a chat or a completion is answered.

Passed through from one engine request, or put together from several.

Engines answer one choice of one prompt. Several prompts, `n` choices, the prompt echoed and
OpenAI's older shape of log-probabilities are the gateway's own work, the same for every engine.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kanna.serving import logprobs, relay, toolcalls
from kanna.serving.disconnect import ended
from kanna.serving.engines.base import SCORE
from kanna.serving.problems import ApiError
from kanna.serving.relay import Used

if TYPE_CHECKING:
    from kanna.serving.gateway import Ask, Gateway

MOST_CHOICES = 256
"""Choices of one request, over all its prompts."""
_OURS = ("n", "echo", "logprobs", "best_of", "stream_options")


class Work(Protocol):
    """What answers one request; one of the two is called, once."""

    async def whole(self) -> bytes: ...

    def stream(self) -> AsyncGenerator[bytes]: ...


def of(gateway: Gateway, ask: Ask, path: str) -> Work:
    """The plainest way to answer; raises ApiError for what can be seen to be too much."""
    body = ask.body
    prompts = _prompts(body)
    if (
        len(prompts) == 1
        and (body.get("n") or 1) == 1
        and (path == relay.CHAT or not _reshaped(body))
    ):
        return _Passed(gateway, ask, path, prompts[0])
    count = len(prompts) * (body.get("n") or 1)
    if count > MOST_CHOICES:
        raise ApiError(
            400, f"{count} choices in one request, at most {MOST_CHOICES} are allowed", param="n"
        )
    return _Together(gateway, ask, path, prompts)


def _prompts(body: dict[str, Any]) -> list[Any]:
    """Every prompt of a completion; a chat counts as one, which is None."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        return prompt
    return [prompt]


def _reshaped(body: dict[str, Any]) -> bool:
    return bool(body.get("echo")) or body.get("logprobs") is not None


def _wants_usage(body: dict[str, Any]) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


class _Passed:
    """One engine request, whose answer goes on as it comes."""

    def __init__(self, gateway: Gateway, ask: Ask, path: str, prompt: Any) -> None:
        self.gateway, self.ask, self.path = gateway, ask, path
        self.body = {k: v for k, v in ask.body.items() if k != "n"}
        if prompt is not None:
            self.body["prompt"] = prompt

    async def whole(self) -> bytes:
        async with self.gateway.pool.tried(self.ask.served, self.path, self.body) as backend:
            body, calls = await toolcalls.prepared(backend, self.body)
            data = await relay.whole(backend, self.path, body, self.ask.used)
        if not calls:
            return data
        answer = json.loads(data)
        toolcalls.whole(answer)
        return json.dumps(answer, ensure_ascii=False).encode()

    async def stream(self) -> AsyncGenerator[bytes]:
        gateway, ask = self.gateway, self.ask
        wants_usage = _wants_usage(self.body)
        self.body["stream_options"] = {
            **(self.body.get("stream_options") or {}),
            "include_usage": True,
        }
        async with gateway.pool.tried(ask.served, self.path, self.body) as backend:
            body, calls = await toolcalls.prepared(backend, self.body)
            events = relay.stream(
                backend,
                self.path,
                body,
                ask.used,
                gateway.metrics,
                begun=ask.begun,
                wants_usage=wants_usage,
            )
            async with aclosing(events):
                if calls:
                    streamed = toolcalls.Streamed()
                    async for chunk in _chunks_of(events):
                        for found in streamed.feed(chunk):
                            yield _event(found)
                    yield b"data: [DONE]\n\n"
                    return
                async for part in events:
                    yield part


@dataclass(slots=True, kw_only=True)
class _Choice:
    """One engine request of several; `body` is what it is sent."""

    index: int
    body: dict[str, Any]
    prompt: Any
    used: Used
    counts_prompt: bool


class _Together:
    """Several choices, each an engine request of its own, no more at a time than there are slots."""

    def __init__(self, gateway: Gateway, ask: Ask, path: str, prompts: list[Any]) -> None:
        self.gateway, self.ask, self.path = gateway, ask, path
        self.echo = bool(ask.body.get("echo"))
        self.top: int | None = ask.body.get("logprobs") if path != relay.CHAT else None
        self.wants_usage = _wants_usage(ask.body)
        self.identity = f"{'chatcmpl' if path == relay.CHAT else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        n = ask.body.get("n") or 1
        self.choices = [
            self._choice(i, prompt, j) for i, prompt in enumerate(prompts) for j in range(n)
        ]
        for choice in self.choices:
            choice.index = choice.index * n + choice.body.pop("_nth")
        self.turns = asyncio.Semaphore(gateway.settings.slots)

    def _choice(self, at: int, prompt: Any, nth: int) -> _Choice:
        hidden = _OURS if self.path != relay.CHAT else ("n", "stream_options")
        body = {k: v for k, v in self.ask.body.items() if k not in hidden}
        body["_nth"] = nth
        if prompt is not None:
            body["prompt"] = prompt
        if self.top is not None:
            body["logprobs"] = max(1, self.top)  # llama.cpp takes 0 for none
        if nth and body.get("seed") is not None:
            body["seed"] += nth  # the same seed would say the same again
        return _Choice(index=at, body=body, prompt=prompt, used=Used(), counts_prompt=nth == 0)

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Stop what still runs, and add up what all have used."""
        for task in tasks:
            task.cancel()
        for task in tasks:
            await ended(task)
        self._sum()

    # Whole

    async def whole(self) -> bytes:
        tasks = [asyncio.ensure_future(self._one(choice)) for choice in self.choices]
        try:
            answers = await asyncio.gather(*tasks)
        finally:
            await self._end(tasks)
        whole = dict(answers[0]) | self._head(answers[0].get("object"))
        whole.pop("timings", None)
        whole["choices"] = [c for a in answers for c in a["choices"]]
        whole["usage"] = self.ask.used.shown()
        return json.dumps(whole, ensure_ascii=False).encode()

    async def _one(self, choice: _Choice) -> dict[str, Any]:
        gateway = self.gateway
        async with self.turns, gateway.pool.turn(self.ask.served) as backend:
            before = await self._before(backend, choice)
            if choice.body.get("max_tokens") == 0:
                answer: dict[str, Any] = {
                    "object": "text_completion",
                    "model": self.ask.served.name,
                    "choices": [{"text": "", "finish_reason": "length"}],
                }
            else:
                body, calls = await toolcalls.prepared(backend, choice.body | {"stream": False})
                answer = json.loads(await relay.whole(backend, self.path, body, choice.used))
                if calls:
                    toolcalls.whole(answer)
        for found in answer["choices"]:
            found["index"] = choice.index
            if self.path != relay.CHAT:
                self._reshape(found, before)
        return answer

    def _reshape(self, found: dict[str, Any], before: logprobs.Table | None) -> None:
        """Put the log-probabilities of a completion into their older shape, after those of its prompt."""
        text = found["text"]
        table = before or logprobs.Table()
        found["text"] = table.text + text
        if self.top is None:
            found["logprobs"] = None
        else:
            found["logprobs"] = table.shown(logprobs.read(found.get("logprobs")), self.top)

    async def _before(self, backend: Any, choice: _Choice) -> logprobs.Table | None:
        """What an echo puts in front of an answer.

        Its tokens are counted here when nothing is generated.
        """
        if not self.echo:
            return None
        gateway = self.gateway
        prompt = choice.prompt
        if self.top is None:
            if choice.body.get("max_tokens") == 0:
                choice.used.prompt = await relay.prompt_tokens(backend.main, self.path, choice.body)
            if not isinstance(prompt, str):
                asked = relay.whole(backend, "/detokenize", {"tokens": prompt}, Used())
                prompt = json.loads(await asked)["content"]
            return logprobs.Table(text=prompt)
        process = await gateway.pool.helper(self.ask.served, backend, SCORE)
        asked = relay.whole(backend, "/score", {"prompt": prompt, "top": self.top}, Used(), process)
        scored = json.loads(await asked)
        choice.used.prompt = len(scored["tokens"])
        tokens = logprobs.scored(scored)
        text = "".join(t.text for t in tokens)
        if isinstance(prompt, str):
            if (
                text == tokens[0].text + prompt
            ):  # the beginning that the model wants is no part of the text
                tokens[0].text = ""
            text = prompt
        return logprobs.Table(text=text, tokens=tokens)

    # Streamed

    async def stream(self) -> AsyncGenerator[bytes]:
        parts: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(64)
        tasks = [asyncio.ensure_future(self._events(choice, parts)) for choice in self.choices]
        try:
            left = len(tasks)
            while left:
                part = await parts.get()
                if part is None:
                    left -= 1
                elif isinstance(part, BaseException):
                    raise part
                else:
                    yield part
        finally:
            await self._end(tasks)
        if self.wants_usage:
            kind = "chat.completion.chunk" if self.path == relay.CHAT else "text_completion"
            yield _event(
                self._head(kind)
                | {"model": self.ask.served.name, "choices": [], "usage": self.ask.used.shown()}
            )
        yield b"data: [DONE]\n\n"

    async def _events(
        self, choice: _Choice, parts: asyncio.Queue[bytes | BaseException | None]
    ) -> None:
        try:
            async with aclosing(self._chunks(choice)) as chunks:
                async for chunk in chunks:
                    await parts.put(_event(chunk | self._head(chunk.get("object"))))
            await parts.put(None)
        except ApiError as problem:
            await parts.put(problem)

    async def _chunks(self, choice: _Choice) -> AsyncGenerator[dict[str, Any]]:
        gateway, ask = self.gateway, self.ask
        async with self.turns, gateway.pool.turn(ask.served) as backend:
            before = await self._before(backend, choice)
            table = before or logprobs.Table()
            if before:
                shown = table.shown([], self.top) if self.top is not None else None
                finish = "length" if choice.body.get("max_tokens") == 0 else None
                only = {
                    "index": choice.index,
                    "text": table.text,
                    "logprobs": shown,
                    "finish_reason": finish,
                }
                yield {"object": "text_completion", "model": ask.served.name, "choices": [only]}
                table = logprobs.Table(offset=len(table.text))
            if choice.body.get("max_tokens") == 0:
                return
            body, calls = await toolcalls.prepared(backend, choice.body)
            body = body | {"stream": True, "stream_options": {"include_usage": True}}
            streamed = toolcalls.Streamed() if calls else None
            events = relay.stream(
                backend,
                self.path,
                body,
                choice.used,
                gateway.metrics,
                begun=ask.begun,
                wants_usage=False,
            )
            async with aclosing(events):
                async for chunk in _chunks_of(events):
                    chunk.pop("usage", None)
                    chunk.pop("timings", None)
                    for found in chunk.get("choices") or ():
                        found["index"] = choice.index
                        if self.path != relay.CHAT:
                            tokens = logprobs.read(found.get("logprobs"))
                            found["logprobs"] = (
                                table.shown(tokens, self.top) if self.top is not None else None
                            )
                            table = logprobs.Table(offset=table.offset + len(found["text"]))
                    for one in streamed.feed(chunk) if streamed else [chunk]:
                        yield one

    # Both

    def _head(self, kind: Any) -> dict[str, Any]:
        """The fields that all chunks of one answer share."""
        return {"id": self.identity, "created": self.created, "object": kind}

    def _sum(self) -> None:
        """A prompt counts once, however often it was answered."""
        self.ask.used.prompt = sum(c.used.prompt for c in self.choices if c.counts_prompt)
        self.ask.used.completion = sum(c.used.completion for c in self.choices)


async def _chunks_of(events: AsyncGenerator[bytes]) -> AsyncGenerator[dict[str, Any]]:
    """The objects in a stream of whole events."""
    async for part in events:
        for event in part.split(b"\n\n"):
            if event.startswith(b"data: {"):
                yield json.loads(event[6:])


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
