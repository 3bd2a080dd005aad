"""One request at an engine.

Its answer goes to the client as it comes, and what it used is counted before it ends.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kanna.serving import http_client
from kanna.serving.backend import Backend
from kanna.serving.engines.base import TOO_LONG
from kanna.serving.http_client import Answer, LineError
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError, engine_down
from kanna.serving.process import EngineProcess

_END, _DONE = b"\n\n", b"data: [DONE]"
CHAT = "/v1/chat/completions"
_COUNTING = 5.0
"""Seconds that counting the prompt of a request which was cut short may take."""


@dataclass(slots=True, kw_only=True)
class Used:
    """Tokens of one request, as the engine counted them."""

    prompt: int = 0
    completion: int = 0

    def read(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage") or {}
        self.prompt = int(usage.get("prompt_tokens") or 0)
        self.completion = int(usage.get("completion_tokens") or 0)

    def shown(self) -> dict[str, int]:
        """As it stands in answers."""
        total = self.prompt + self.completion
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": total,
        }


async def whole(
    backend: Backend,
    path: str,
    body: dict[str, Any],
    used: Used,
    process: EngineProcess | None = None,
) -> bytes:
    """The answer as one JSON text, of the main engine or of `process`.

    Raises ApiError for whatever it refuses.

    Cut short, its prompt is counted; how much was generated only the engine knew.
    """
    process = process or backend.main
    try:
        answer = await send(backend, path, body, process)
        try:
            data = await answer.read()
        except LineError as error:
            raise engine_down(backend.config.name) from error
        finally:
            answer.close()
    except asyncio.CancelledError:
        used.prompt = await prompt_tokens(process, path, body)
        raise
    try:
        found = json.loads(data)
    except ValueError:
        raise ApiError(502, "the engine's answer is not JSON", "server_error") from None
    if isinstance(found, dict):
        used.read(found)
    return data


async def stream(
    backend: Backend,
    path: str,
    body: dict[str, Any],
    used: Used,
    metrics: Metrics,
    *,
    begun: float,
    wants_usage: bool,
) -> AsyncGenerator[bytes]:
    """The engine's events, unchanged, several whole ones at a time.

    The one with the usage alone is kept back unless the client asked for it. Raises ApiError when
    the engine dies meanwhile.
    """
    name = backend.config.name
    first, between = metrics.of(metrics.first_token, name), metrics.of(metrics.between_tokens, name)
    last, rest, ended, events = 0.0, b"", False, 0
    answer: Answer | None = None
    try:
        answer = await send(backend, path, body)
        async for part in answer.parts():
            rest = rest + part if rest else part
            if rest.endswith(_END):
                whole_events, rest = rest, b""
            else:
                cut = rest.rfind(_END)
                if cut < 0:
                    continue
                whole_events, rest = rest[: cut + 2], rest[cut + 2 :]
            count = whole_events.count(b"data: {")
            events += count
            now = time.perf_counter()
            if last:
                for _ in range(
                    count
                ):  # what comes together is shared out: a busy moment is no faster engine
                    between.observe((now - last) / count)
            else:
                first.observe(now - begun)
            last = now
            ended = ended or _DONE in whole_events
            if b'"usage"' in whole_events:
                whole_events = _without_usage(whole_events, used, wants_usage)
            if whole_events:
                yield whole_events
    except LineError:
        pass
    finally:
        if answer:
            answer.close()
        if not ended and not used.prompt:
            # A chat's first event has a role and no token.
            used.completion = max(0, events - (path == CHAT))
            used.prompt = await prompt_tokens(backend.main, path, body)
    if not ended:
        raise engine_down(name)


async def prompt_tokens(process: EngineProcess, path: str, body: dict[str, Any]) -> int:
    """How many tokens the prompt of a request has; 0 when the engine cannot say."""

    async def ask(where: str, what: dict[str, Any]) -> Any:
        answer = await http_client.post(
            process.port, where, process.head, json.dumps(what).encode()
        )
        try:
            return json.loads(await answer.read())
        finally:
            answer.close()

    async def count() -> int:
        text = body.get("prompt")
        if isinstance(text, list):
            return len(text)
        if path == CHAT:
            text = (
                await ask(
                    "/apply-template", {k: body[k] for k in ("messages", "tools") if k in body}
                )
            )["prompt"]
        return len((await ask("/tokenize", {"content": text, "add_special": True}))["tokens"])

    with suppress(LineError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
        return await asyncio.wait_for(count(), _COUNTING)
    return 0


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


async def send(
    backend: Backend, path: str, body: dict[str, Any], process: EngineProcess | None = None
) -> Answer:
    """The head of an answer of the main engine or of `process`.

    Raises ApiError for whatever it refuses.
    """
    process = process or backend.main
    try:
        answer = await http_client.post(process.port, path, process.head, json.dumps(body).encode())
        if answer.status == 200:
            return answer
        try:
            text = (await answer.read()).decode("utf-8", "replace")
        finally:
            answer.close()
    except LineError as error:
        raise engine_down(backend.config.name) from error
    kind = None
    try:
        error = json.loads(text)["error"]
        said, kind = error["message"], error.get("type")
    except (ValueError, KeyError, TypeError):
        said = text[:300]
    if "initialize samplers" in str(said):
        said = f"llama.cpp cannot hold this answer to a schema; a file without a chat template is one cause ({said})"
    if kind == TOO_LONG:
        raise ApiError(400, str(said), code="context_length_exceeded")
    if answer.status < 500 or path == "/detokenize":  # llama.cpp fails at ids that it does not have
        raise ApiError(400, str(said))
    raise ApiError(502, f"the engine failed: {said}", "server_error", "engine_failed")
