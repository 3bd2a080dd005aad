"""What the routes share: the guard in front of every request, and what is counted behind it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from kanna.serving import relay, requests, responses
from kanna.serving.disconnect import LEFT, Client, Events
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.limits import Limiter
from kanna.serving.guard.store import Key, Store, Use
from kanna.serving.pool import Pool, Served
from kanna.serving.problems import ApiError
from kanna.serving.relay import Used
from kanna.serving.settings import Settings
from kanna.serving.traces import Traces

ANYONE = Key(id="anyone", name="anyone", scopes=("infer", "metrics"), created=0)
"""Who asks where no keys are needed."""


@dataclass(slots=True, kw_only=True)
class Ask:
    """A request that may be answered."""

    key: Key
    served: Served
    body: dict[str, Any]
    client: Client
    request: Request
    begun: float
    used: Used = field(default_factory=Used)


class Gateway:
    def __init__(
        self, pool: Pool, store: Store, settings: Settings, traces: Traces | None = None
    ) -> None:
        self.traces = traces
        self.pool, self.store, self.settings, self.metrics = pool, store, settings, pool.metrics
        self.limiter = Limiter(store.used)
        self.ledger: Ledger | None = None

    # Guard

    def admit(self, request: Request, scope: str) -> Key:
        """Whose request it is; raises ApiError 401, 403 or 429."""
        if not self.settings.keys_needed and scope != "admin":
            return ANYONE
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        key = self.store.find(text.strip()) if kind.lower() == "bearer" else None
        if key is None or not key.valid(time.time()):
            raise ApiError(
                401,
                "no valid API key: send `Authorization: Bearer kanna-…`",
                code="invalid_api_key",
            )
        if not key.allows(scope):
            raise ApiError(
                403, f"this key has no scope {scope!r}", "permission_error", "insufficient_scope"
            )
        if scope == "infer":
            self.limiter.admit(key)
        return key

    async def body(self, request: Request, kind: type[Any]) -> dict[str, Any]:
        """The JSON of a request, no larger than allowed and of the right shape."""
        try:
            data = await asyncio.wait_for(self._read(request), self.settings.limits.header_time)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None
        except ClientDisconnect:
            raise ApiError(LEFT, "the client went away", code="client_left") from None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ApiError(400, "the body is not JSON") from None
        requests.check(kind, value)
        return value

    async def _read(self, request: Request) -> bytes:
        limit, data = self.settings.limits.body, bytearray()
        async for part in request.stream():
            data += part
            if len(data) > limit:
                raise ApiError(
                    413, f"the body is larger than {limit} bytes", code="request_too_large"
                )
        return bytes(data)

    def model(self, key: Key, name: str) -> Served:
        served = self.pool.find(name)
        if key.models and served.name not in key.models:
            raise ApiError(
                403,
                f"this key may not use {served.name!r}",
                "permission_error",
                "model_not_allowed",
            )
        return served

    def cap(self, body: dict[str, Any], names: tuple[str, ...]) -> None:
        """Hold the number of new tokens to the limit; a request that names none gets the limit."""
        most = self.settings.limits.max_tokens
        if not most:
            return
        given = [n for n in names if body.get(n) is not None]
        for name in given:
            if body[name] > most:
                raise ApiError(
                    400, f"{name} is {body[name]}, at most {most} are allowed here", param=name
                )
        if not given:
            body[names[0]] = most

    # Work

    async def generate(
        self, request: Request, kind: type[Any], path: str, caps: tuple[str, ...]
    ) -> Response:
        """Chats and completions: whole or streamed, one choice or many."""
        ask = await self._ask(request, kind, caps)
        limits = self.settings.limits
        streamed = False
        try:
            work = responses.of(self, ask, path)
            if not ask.body.get("stream"):
                data = await ask.client.waits_for(self._whole(ask, work), limits.request_time)
                return Response(data, media_type="application/json")
            source = self._stream(ask, work)
            # Until the first event there can be an answer with a status that says what is wrong.
            first = await ask.client.waits_for(anext(source), limits.request_time)
            streamed = True
            return Events(
                first, source, ask.client, total=limits.request_time, idle=limits.idle_time
            )
        finally:
            if not streamed:
                ask.client.forget()

    async def _ask(self, request: Request, kind: type[Any], caps: tuple[str, ...] = ()) -> Ask:
        begun = time.perf_counter()
        key = self.admit(request, "infer")
        body = await self.body(request, kind)
        served = self.model(key, body["model"])
        if caps:
            self.cap(body, caps)
        if kind is requests.Chat:
            requests.settle(body)
        body["model"] = served.name
        self.metrics.of(self.metrics.requests, served.name, key.id).inc()
        return Ask(
            key=key,
            served=served,
            body=body,
            client=Client(request.receive),
            begun=begun,
            request=request,
        )

    async def _whole(self, ask: Ask, work: responses.Work) -> bytes:
        async with self.counted(ask):
            return await work.whole()

    async def _stream(self, ask: Ask, work: responses.Work) -> AsyncGenerator[bytes]:
        async with self.counted(ask), aclosing(work.stream()) as parts:
            async for part in parts:
                yield part

    @asynccontextmanager
    async def counted(self, ask: Ask) -> AsyncGenerator[None]:
        """Counts once what was used, however the work inside ends.

        The usage is committed before an answer ends.
        """
        status = ask.client.verdict
        try:
            yield
            status = 200
        except ApiError as problem:
            status = problem.status
            raise
        except BaseException:
            status = ask.client.verdict
            raise
        finally:
            await asyncio.shield(self._count(ask, status))

    async def _count(self, ask: Ask, status: int) -> None:
        metrics, key, used, name = self.metrics, ask.key, ask.used, ask.served.name
        metrics.of(metrics.whole, name).observe(time.perf_counter() - ask.begun)
        metrics.of(metrics.tokens, name, key.id, "prompt").inc(used.prompt)
        metrics.of(metrics.tokens, name, key.id, "completion").inc(used.completion)
        if status >= 500:
            metrics.of(metrics.errors, name, key.id).inc()
        self.limiter.spend(key, used.prompt + used.completion)
        assert self.ledger
        use = Use(
            key=key.id, model=name, prompt_tokens=used.prompt, completion_tokens=used.completion
        )
        entry = {
            "key": key.id,
            "model": name,
            "status": status,
            "prompt_tokens": used.prompt,
            "completion_tokens": used.completion,
        }
        if self.traces:
            facts = {
                "gen_ai.request.model": name,
                "gen_ai.usage.input_tokens": used.prompt,
                "gen_ai.usage.output_tokens": used.completion,
                "kanna.key": key.id,
            }
            seconds = time.perf_counter() - ask.begun
            self.traces.request(ask.request.url.path, ask.request.headers, seconds, status, facts)
        await self.ledger.write(use, entry)

    async def plain(
        self, request: Request, kind: type[Any], path: str, *, role: str | None = None
    ) -> Response:
        """A request that is answered at once: tokens of a text, embeddings."""
        ask = await self._ask(request, kind)
        try:
            work = self._plain(ask, path, role)
            data = await ask.client.waits_for(work, self.settings.limits.request_time)
            return Response(data, media_type="application/json")
        finally:
            ask.client.forget()

    async def _plain(self, ask: Ask, path: str, role: str | None) -> bytes:
        async with self.counted(ask), self.pool.turn(ask.served) as backend:
            process = await self.pool.helper(ask.served, backend, role) if role else None
            return await relay.whole(backend, path, ask.body, ask.used, process)
