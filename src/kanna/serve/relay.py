"""One request at an engine: its answer goes to the client as it comes, and what it used is counted before it ends."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from kanna.serve.backend import Backend
from kanna.serve.metrics import Metrics
from kanna.serve.problems import ApiError, engine_down
from kanna.serve.process import EngineProcess

_END, _DONE = b"\n\n", b"data: [DONE]"


@dataclass(slots=True, kw_only=True)
class Used:
    """Tokens of one request, as the engine counted them."""

    prompt: int = 0
    completion: int = 0

    def read(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage") or {}
        self.prompt = int(usage.get("prompt_tokens") or 0)
        self.completion = int(usage.get("completion_tokens") or 0)


async def whole(
    session: aiohttp.ClientSession,
    backend: Backend,
    path: str,
    body: dict[str, Any],
    used: Used,
    process: EngineProcess | None = None,
) -> bytes:
    """The answer as one JSON text, of the main engine or of `process`; raises ApiError for whatever it refuses."""
    answer = await _send(session, backend, path, body, process)
    async with answer:
        try:
            data = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            raise engine_down(backend.config.name) from error
    try:
        found = json.loads(data)
    except ValueError:
        raise ApiError(502, "the engine's answer is not JSON", "server_error") from None
    if isinstance(found, dict):
        used.read(found)
    return data


async def stream(
    answer: aiohttp.ClientResponse, backend: Backend, metrics: Metrics, used: Used, *, wants_usage: bool, begun: float
) -> AsyncIterator[bytes]:
    """The engine's events, unchanged; the one with the usage is kept back unless the client asked for it.

    An engine that dies meanwhile ends the stream with an error event.
    """
    name = backend.config.name
    first, between = metrics.of(metrics.first_token, name), metrics.of(metrics.between_tokens, name)
    last, rest, ended = 0.0, b"", False
    try:
        async for part in answer.content.iter_any():
            now = time.perf_counter()
            if last:
                between.observe(now - last)
            else:
                first.observe(now - begun)
            last = now
            rest += part
            cut = rest.rfind(_END)
            if cut < 0:
                continue
            whole_events, rest = rest[: cut + 2], rest[cut + 2 :]
            ended = ended or _DONE in whole_events
            if b'"usage"' in whole_events:
                whole_events = _without_usage(whole_events, used, wants_usage)
            if whole_events:
                yield whole_events
    except (aiohttp.ClientError, OSError):
        pass
    if not ended:
        problem = engine_down(name)
        yield b"data: " + problem.body() + _END
        raise problem


def _without_usage(events: bytes, used: Used, wanted: bool) -> bytes:
    kept: list[bytes] = []
    for event in events.split(_END):
        if b'"usage"' in event and event.startswith(b"data: {"):
            chunk = json.loads(event[6:])
            if chunk.get("usage"):
                used.read(chunk)
                if not chunk.get("choices") and not wanted:
                    continue
        kept.append(event)
    return _END.join(kept)


async def begin(
    session: aiohttp.ClientSession, backend: Backend, path: str, body: dict[str, Any]
) -> aiohttp.ClientResponse:
    """The head of a streamed answer; raises ApiError for whatever the engine refuses."""
    return await _send(session, backend, path, body)


async def _send(
    session: aiohttp.ClientSession,
    backend: Backend,
    path: str,
    body: dict[str, Any],
    process: EngineProcess | None = None,
) -> aiohttp.ClientResponse:
    process = process or backend.main
    try:
        answer = await session.post(process.url + path, headers=process.headers, data=json.dumps(body).encode())
    except (aiohttp.ClientError, OSError) as error:
        raise engine_down(backend.config.name) from error
    if answer.status == 200:
        return answer
    text = await answer.text()
    answer.release()
    try:
        said = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = text[:300]
    if answer.status < 500:
        raise ApiError(400, str(said))
    raise ApiError(502, f"the engine failed: {said}", "server_error", "engine_failed")
