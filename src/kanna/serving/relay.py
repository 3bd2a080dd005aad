"""One request at an engine: the response goes on as it comes, and its tokens are counted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kanna.serving import engine_errors, http_client, sse, unfinished, unparsed
from kanna.serving.backend import Backend
from kanna.serving.disconnect import cancel_and_wait
from kanna.serving.engine_errors import CHAT
from kanna.serving.http_client import EngineConnectionError, EngineResponse
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError, engine_down
from kanna.serving.process import EngineProcess
from kanna.serving.requests import pictures

_DONE = sse.DONE.rstrip()
_GENERATING = (CHAT, "/v1/completions")
_COUNTING_TIME = 5.0
"""Seconds that counting the prompt of a cancelled request may take."""


@dataclass(slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one request, as the engine counted them."""

    prompt: int = 0
    completion: int = 0

    def update(self, answer: dict[str, Any]) -> None:
        """Take over the `usage` of an answer."""
        usage = answer.get("usage") or {}
        self.prompt = int(usage.get("prompt_tokens") or 0)
        self.completion = int(usage.get("completion_tokens") or 0)

    def to_dict(self) -> dict[str, int]:
        """The `usage` of an answer."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


async def fetch(
    backend: Backend,
    path: str,
    body: dict[str, Any],
    usage: TokenUsage,
    process: EngineProcess | None = None,
) -> bytes:
    """The whole answer of an engine, as JSON.

    When it is cancelled, the engine is asked how far it is before it is left.

    Args:
        backend: Of the model.
        path: Of the route.
        body: Of the request.
        usage: Gets the tokens.
        process: The one to ask; None: the one that generates.

    Raises:
        ApiError: The engine refuses, fails or is gone.
    """
    process = process or backend.main
    marked = unfinished.marked(body) if path in _GENERATING else body
    sending = asyncio.ensure_future(_fetch_whole(backend, path, marked, process))
    try:
        # While this is cancelled, the engine goes on until it has said how far it is.
        data = await asyncio.shield(sending)
    except asyncio.CancelledError:
        try:
            await _count_left(process, path, marked, usage, leave=sending.cancel)
        finally:
            await cancel_and_wait(sending)
        raise
    if path == "/detokenize":
        usage.prompt = len(body["tokens"])
    elif path == "/tokenize":  # a million of them are not parsed to be counted
        usage.prompt = data.count(b'"id"') or data.count(b",") + (b"[]" not in data)
    else:
        try:
            answer = json.loads(data)
        except ValueError:
            raise ApiError(502, "the engine's answer is not JSON", "server_error") from None
        if isinstance(answer, dict):
            usage.update(answer)
    return data


async def _fetch_whole(
    backend: Backend, path: str, body: dict[str, Any], process: EngineProcess
) -> bytes:
    try:
        response = await _open(backend, path, body, process)
    except ApiError as error:
        if error.code != unparsed.CODE or any(pictures.in_body(body)):  # a text shows no picture
            raise
        return await _fetch_text(backend, body, process)
    try:
        return await response.read()
    except EngineConnectionError as error:
        raise engine_down(backend.config.name) from error
    finally:
        response.close()


async def _fetch_text(backend: Backend, body: dict[str, Any], process: EngineProcess) -> bytes:
    """The answer to a chat as text, where the engine can make nothing of what the model said."""

    async def complete(completion: dict[str, Any]) -> bytes:
        return await _fetch_whole(backend, unparsed.COMPLETIONS, completion, process)

    try:
        return await unparsed.as_text(process, body, complete)
    except EngineConnectionError as error:
        raise engine_down(backend.config.name) from error


async def _count_left(
    process: EngineProcess,
    path: str,
    body: dict[str, Any],
    usage: TokenUsage,
    *,
    leave: Callable[[], object],
) -> None:
    """Count a request that nobody waits for: what it generated, or at least its prompt.

    Args:
        process: The engine.
        path: Of the route.
        body: As the engine has it.
        usage: Gets the tokens.
        leave: Ends the request at the engine.
    """
    try:
        made = await unfinished.ask(process, body)
    finally:
        leave()
    if made:
        usage.prompt, usage.completion = made.prompt, max(made.completion, usage.completion)
    if not usage.prompt:
        usage.prompt = await count_prompt(process, path, body)


async def stream(
    backend: Backend,
    path: str,
    body: dict[str, Any],
    usage: TokenUsage,
    metrics: Metrics,
    *,
    started: float,
    include_usage: bool,
) -> AsyncGenerator[bytes]:
    """The engine's events, unchanged, one or more whole ones at a time.

    Args:
        backend: Of the model.
        path: Of the route.
        body: Of the request.
        usage: Gets the tokens.
        metrics: Gets the times.
        started: When the request came, by the performance counter.
        include_usage: Pass the event on that has the usage alone.

    Raises:
        ApiError: The engine refuses, fails, or dies meanwhile.
    """
    body = unfinished.marked(body)
    clock = _StreamClock(metrics, backend.config.name, started)
    last, ended, count, left = b"", False, 0, True
    opening = asyncio.ensure_future(_open(backend, path, body, backend.main))
    try:
        response = await asyncio.shield(opening)
        async for events in sse.whole(response.parts()):
            if path == CHAT:
                events = unparsed.ended_as_text(events, last, backend.config.name) or events
                last = events
            events, failure = sse.until_error(events)
            arrived = events.count(sse.PREFIX + b"{")
            count += arrived
            clock.observe(arrived)
            ended = ended or _DONE in events
            if b'"usage"' in events:
                events = _take_usage(events, usage, include_usage)
            if events:
                yield events
            if failure:  # the engine lives, and is done with this request
                raise await engine_errors.explain(backend.main, path, body, 500, failure)
    except ApiError:
        left = False  # it refused: what was sent counts
        raise
    except EngineConnectionError:
        left = False  # it ended, and cannot be asked
    finally:
        if not usage.prompt:
            usage.completion = max(0, count - (path == CHAT))  # a chat's first event has none
        if left and not usage.prompt:
            await _count_left(backend.main, path, body, usage, leave=lambda: _leave(opening))
        else:
            _leave(opening)
    if not ended:
        raise engine_down(backend.config.name)


def _leave(opening: asyncio.Future[EngineResponse]) -> None:
    """End a request whose response may have begun."""
    if not opening.done():
        opening.cancel()
    elif not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _StreamClock:
    """Measures the time to the first event of a stream, and between its events."""

    def __init__(self, metrics: Metrics, model: str, started: float) -> None:
        self._first_token = metrics.series(metrics.time_to_first_token, model)
        self._inter_token = metrics.series(metrics.inter_token_time, model)
        self._started, self._last = started, 0.0

    def observe(self, count: int) -> None:
        """So many events have come now."""
        now = time.perf_counter()
        if not self._last:
            self._first_token.observe(now - self._started)
        else:
            # The time is shared among events that come together: they tell that the gateway was
            # busy, not that the engine is faster.
            for _ in range(count):
                self._inter_token.observe((now - self._last) / count)
        self._last = now


def _take_usage(events: bytes, usage: TokenUsage, include_usage: bool) -> bytes:
    """Take over the usage; leave the event out that has nothing else, unless it is wanted."""
    passed: list[bytes] = []
    for event in events.split(sse.SEPARATOR):
        chunk = sse.decode(event) if b'"usage"' in event else None
        if chunk and chunk.get("usage"):
            usage.update(chunk)
            if not chunk.get("choices") and not include_usage:
                continue
        passed.append(event)
    return sse.SEPARATOR.join(passed)


async def count_prompt(process: EngineProcess, path: str, body: dict[str, Any]) -> int:
    """How many tokens the prompt of a request has; 0 when the engine cannot say."""

    async def post(route: str, value: dict[str, Any]) -> Any:
        response = await http_client.request(
            process.port, route, process.raw_headers, json.dumps(value).encode()
        )
        try:
            return json.loads(await response.read())
        finally:
            response.close()

    async def count() -> int:
        if path == "/detokenize":
            return len(body["tokens"])
        prompt = next((body[k] for k in ("prompt", "input", "content") if k in body), None)
        if path == CHAT:
            chat = {k: body[k] for k in ("messages", "tools") if k in body}
            prompt = (await post("/apply-template", chat))["prompt"]
        parts = prompt if isinstance(prompt, list) else [prompt]
        if isinstance(parts[0], int):
            return len(parts)
        texts = [part for part in parts if isinstance(part, str)]
        ids = sum(len(part) for part in parts if isinstance(part, list))
        if not texts:
            return ids
        tokenized = await post("/tokenize", {"content": "\n".join(texts), "add_special": True})
        return ids + len(tokenized["tokens"])

    with suppress(EngineConnectionError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
        return await asyncio.wait_for(count(), _COUNTING_TIME)
    return 0


async def _open(
    backend: Backend, path: str, body: dict[str, Any], process: EngineProcess
) -> EngineResponse:
    """Send a request and wait for its status.

    Raises:
        ApiError: The engine refuses, fails or is gone.
    """
    data = await backend.bodies.encode(body)
    try:
        response = await http_client.request(process.port, path, process.raw_headers, data)
        if response.status == 200:
            return response
        try:
            text = (await response.read()).decode("utf-8", "replace")
        finally:
            response.close()
    except EngineConnectionError as error:
        raise engine_down(backend.config.name) from error
    raise await engine_errors.explain(process, path, body, response.status, text)
