"""The gateway as an ASGI application: every route, the guard in front of them, and what is counted behind them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from kanna import __version__
from kanna.serve import admin, page, relay, requests
from kanna.serve.backend import Backend
from kanna.serve.engines.base import EMBED
from kanna.serve.guard.ledger import Ledger
from kanna.serve.guard.limits import Limiter
from kanna.serve.guard.store import Key, Store, Use
from kanna.serve.pool import Pool, Served
from kanna.serve.problems import ApiError
from kanna.serve.settings import Settings

ANYONE = Key(id="anyone", name="anyone", scopes=("infer", "metrics"), created=0)
"""Who asks where no keys are needed."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Gateway:
    """What the routes share."""

    def __init__(self, pool: Pool, store: Store, settings: Settings) -> None:
        self.pool, self.store, self.settings, self.metrics = pool, store, settings, pool.metrics
        self.limiter = Limiter(store.used)
        self.ledger: Ledger | None = None
        self.session: aiohttp.ClientSession | None = None

    # Guard

    def admit(self, request: Request, scope: str) -> Key:
        """Whose request it is; raises ApiError 401, 403 or 429."""
        if not self.settings.keys_needed and scope != "admin":
            return ANYONE
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        key = self.store.find(text.strip()) if kind.lower() == "bearer" else None
        if key is None or not key.valid(time.time()):
            raise ApiError(401, "no valid API key: send `Authorization: Bearer kanna-…`", code="invalid_api_key")
        if not key.allows(scope):
            raise ApiError(403, f"this key has no scope {scope!r}", "permission_error", "insufficient_scope")
        if scope == "infer":
            self.limiter.admit(key)
        return key

    async def body(self, request: Request, kind: type[Any]) -> dict[str, Any]:
        """The JSON of a request, no larger than allowed and of the right shape."""
        try:
            data = await asyncio.wait_for(self._read(request), self.settings.limits.header_time)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="request_timeout") from None
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
                raise ApiError(413, f"the body is larger than {limit} bytes", code="request_too_large")
        return bytes(data)

    def model(self, key: Key, name: str) -> Served:
        served = self.pool.find(name)
        if key.models and served.name not in key.models:
            raise ApiError(403, f"this key may not use {served.name!r}", "permission_error", "model_not_allowed")
        return served

    def cap(self, body: dict[str, Any], names: tuple[str, ...]) -> None:
        """Hold the number of new tokens to the limit; a request that names none gets the limit."""
        most = self.settings.limits.max_tokens
        if not most:
            return
        given = [n for n in names if body.get(n) is not None]
        for name in given:
            if body[name] > most:
                raise ApiError(400, f"{name} is {body[name]}, at most {most} are allowed here", param=name)
        if not given:
            body[names[0]] = most

    # Work

    async def generate(self, request: Request, kind: type[Any], path: str, caps: tuple[str, ...]) -> Response:
        begun = time.perf_counter()
        key = self.admit(request, "infer")
        body = await self.body(request, kind)
        served = self.model(key, body["model"])
        self.cap(body, caps)
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        body["model"] = served.name
        metrics, used = self.metrics, relay.Used()
        metrics.of(metrics.requests, served.name, key.id).inc()
        assert self.session
        try:
            backend = await self.pool.enter(served)
        except ApiError:
            metrics.of(metrics.errors, served.name, key.id).inc()
            raise
        if not body.get("stream"):
            try:
                work = relay.whole(self.session, backend, path, body, used)
                data = await asyncio.wait_for(work, self.settings.limits.request_time)
                await self.count(key, served, used, begun, 200)
                return Response(data, media_type="application/json")
            except asyncio.TimeoutError:
                await self.count(key, served, used, begun, 504)
                raise ApiError(504, "the answer took too long", "server_error", "timeout") from None
            except ApiError as problem:
                await self.count(key, served, used, begun, problem.status)
                raise
            finally:
                backend.leave()
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        try:
            answer = await relay.begin(self.session, backend, path, body)
        except BaseException as problem:
            backend.leave()
            if isinstance(problem, ApiError):
                await self.count(key, served, used, begun, problem.status)
            raise
        events = self._events(answer, backend, key, served, used, wants_usage, begun)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _events(
        self,
        answer: aiohttp.ClientResponse,
        backend: Backend,
        key: Key,
        served: Served,
        used: relay.Used,
        wants_usage: bool,
        begun: float,
    ) -> AsyncIterator[bytes]:
        status = 499  # the client went away, unless the end is reached
        try:
            async for part in relay.stream(answer, backend, self.metrics, used, wants_usage=wants_usage, begun=begun):
                yield part
            status = 200
        except ApiError as problem:
            status = problem.status  # the client was told within the stream
        finally:
            answer.close()
            backend.leave()
            await asyncio.shield(self.count(key, served, used, begun, status))

    async def count(self, key: Key, served: Served, used: relay.Used, begun: float, status: int) -> None:
        """Usage is committed before an answer ends."""
        metrics = self.metrics
        metrics.of(metrics.whole, served.name).observe(time.perf_counter() - begun)
        metrics.of(metrics.tokens, served.name, key.id, "prompt").inc(used.prompt)
        metrics.of(metrics.tokens, served.name, key.id, "completion").inc(used.completion)
        if status >= 500:
            metrics.of(metrics.errors, served.name, key.id).inc()
        self.limiter.spend(key, used.prompt + used.completion)
        assert self.ledger
        use = Use(key=key.id, model=served.name, prompt_tokens=used.prompt, completion_tokens=used.completion)
        entry = {
            "key": key.id,
            "model": served.name,
            "status": status,
            "prompt_tokens": used.prompt,
            "completion_tokens": used.completion,
        }
        await self.ledger.write(use, entry)

    async def plain(self, request: Request, kind: type[Any], path: str, *, role: str | None = None) -> Response:
        """A request that is answered at once: tokens of a text, embeddings."""
        key = self.admit(request, "infer")
        body = await self.body(request, kind)
        served = self.model(key, body["model"])
        assert self.session
        backend = await self.pool.enter(served)
        begun, used, status = time.perf_counter(), relay.Used(), 200
        self.metrics.of(self.metrics.requests, served.name, key.id).inc()
        try:
            process = await self.pool.helper(served, backend, role) if role else None
            body["model"] = served.name
            return Response(
                await relay.whole(self.session, backend, path, body, used, process), media_type="application/json"
            )
        except ApiError as problem:
            status = problem.status
            raise
        finally:
            backend.leave()
            await self.count(key, served, used, begun, status)

    async def gauges(self) -> None:
        """What is only known when it is asked for."""
        metrics, pool = self.metrics, self.pool
        metrics.memory_used.set(pool.used)
        metrics.memory_budget.set(pool.budget)
        for status in await asyncio.to_thread(pool.status):
            name = status["name"]
            metrics.of(metrics.running, name).set(status.get("running", 0))
            metrics.of(metrics.waiting, name).set(status.get("waiting", 0))
            metrics.of(metrics.memory, name).set(status.get("resident", 0))
        for served in pool.models.values():
            backend = served.backend
            if backend is None or backend.main.state != "ready":
                continue
            with suppress(
                ApiError, aiohttp.ClientError, OSError, ValueError, TypeError, KeyError, asyncio.TimeoutError
            ):
                assert self.session
                timeout = aiohttp.ClientTimeout(total=1)
                url = f"{backend.main.url}/slots"
                async with self.session.get(url, headers=backend.main.headers, timeout=timeout) as answer:
                    slots = await answer.json()
                busy = [slot for slot in slots if slot.get("is_processing")]
                held = sum(int(s.get("n_prompt_tokens") or 0) + _decoded(s) for s in busy)
                metrics.of(metrics.batch, served.name).set(len(busy))
                metrics.of(metrics.kv_used, served.name).set(held / (backend.context * backend.config.slots))


def _decoded(slot: dict[str, Any]) -> int:
    token = slot.get("next_token")
    first = token[0] if isinstance(token, list) and token else token
    return int(first.get("n_decoded") or 0) if isinstance(first, dict) else 0


def create_app(pool: Pool, store: Store, settings: Settings, started: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; `started` is called when requests may come."""
    gateway = Gateway(pool, store, settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        gateway.ledger = Ledger(store, settings.audit)
        # The engine's connections are not kept: an idle one holds a thread of its server.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            gateway.session = session
            pool.start(session)
            idle = asyncio.create_task(_unload_idle(pool, settings.idle)) if settings.idle else None
            started()
            try:
                yield
            finally:
                if idle:
                    idle.cancel()
                await pool.stop()
                gateway.ledger.close()

    app = FastAPI(title="kanna", version=__version__, lifespan=life, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def secure(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(ApiError)
    async def refuse(_: Request, problem: ApiError) -> Response:
        gateway.metrics.of(gateway.metrics.refused, str(problem.status)).inc()
        headers = {k.decode(): v.decode() for k, v in problem.headers()}
        return Response(problem.body(), problem.status, headers)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: Request, _: Exception) -> Response:
        problem = ApiError(404, f"there is nothing at {request.method} {request.url.path[:200]}", code="not_found")
        return Response(problem.body(), 404, media_type="application/json")

    app.include_router(admin.router(gateway))
    app.router.routes.extend(page.routes())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        caps = ("max_tokens", "max_completion_tokens")
        return await gateway.generate(request, requests.Chat, "/v1/chat/completions", caps)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await gateway.generate(request, requests.Completion, "/v1/completions", ("max_tokens",))

    @app.post("/v1/embeddings")
    async def embed(request: Request) -> Response:
        return await gateway.plain(request, requests.Embeddings, "/v1/embeddings", role=EMBED)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        return await gateway.plain(request, requests.Tokenize, "/tokenize")

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        return await gateway.plain(request, requests.Detokenize, "/detokenize")

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        key = gateway.admit(request, "infer")
        listed = [s for s in pool.models.values() if not key.models or s.name in key.models]
        data = [{"id": s.name, "object": "model", "created": s.created, "owned_by": "kanna"} for s in listed]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        """200 when every loaded model answers; models that are loaded on demand count as ready."""
        waiting = [s.name for s in pool.models.values() if s.backend and s.backend.main.state != "ready"]
        status = {"status": "starting" if waiting else "ok", "waiting": waiting}
        return Response(json.dumps(status), 503 if waiting else 200, media_type="application/json")

    @app.get("/status")
    async def status(request: Request) -> list[dict[str, Any]]:
        """Models, engines, memory, queue."""
        gateway.admit(request, "metrics")
        return await asyncio.to_thread(pool.status)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        gateway.admit(request, "metrics")
        await gateway.gauges()
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


async def _unload_idle(pool: Pool, seconds: float) -> None:
    while True:
        await asyncio.sleep(max(1.0, seconds / 4))
        await pool.unload_idle()
