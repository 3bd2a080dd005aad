"""The gateway as an ASGI application: every route, and the headers of every answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kanna import __version__
from kanna.serving import admin, description, gauges, models, page, requests
from kanna.serving.disconnect import LEFT
from kanna.serving.engines.base import EMBED
from kanna.serving.gateway import Gateway
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.origins import Origins
from kanna.serving.guard.store import Store
from kanna.serving.pool import Pool
from kanna.serving.problems import ApiError
from kanna.serving.settings import Settings
from kanna.serving.traces import Traces

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class _Secure:
    """Adds _HEADERS to every answer that has not set them itself.

    The body passes through untouched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, told if scope["type"] == "http" else send)


def create_app(
    pool: Pool,
    store: Store,
    settings: Settings,
    started: Callable[[], None] = lambda: None,
    traces: Traces | None = None,
) -> FastAPI:
    """The application; `started` is called when requests may come."""
    gateway = Gateway(pool, store, settings, traces)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncGenerator[None]:
        gateway.ledger = Ledger(store, settings.audit)
        # The engine's connections are not kept: an idle one holds a thread of its server.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
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
                if traces:
                    await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="kanna",
        version=__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=description.ANSWERS,
    )
    described = description.Bodies()

    def turned_away(status: int) -> None:
        gateway.metrics.of(gateway.metrics.refused, str(status)).inc()

    app.add_middleware(Origins, settings=settings, refused=turned_away)
    app.add_middleware(_Secure)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, problem: ApiError) -> Response:
        if problem.status != LEFT:
            turned_away(problem.status)
        headers = {k.decode(): v.decode() for k, v in problem.headers()}
        return Response(problem.body(), problem.status, headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        problem = ApiError(
            500, "the gateway failed at this request", "server_error", "internal_error"
        )
        return Response(problem.body(), 500, media_type="application/json")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: Request, _: Exception) -> Response:
        problem = ApiError(
            404, f"there is nothing at {request.method} {request.url.path[:200]}", code="not_found"
        )
        return Response(problem.body(), 404, media_type="application/json")

    @app.post("/v1/chat/completions", openapi_extra=described.of(requests.Chat))
    async def chat(request: Request) -> Response:
        caps = ("max_tokens", "max_completion_tokens")
        return await gateway.generate(request, requests.Chat, "/v1/chat/completions", caps)

    @app.post("/v1/completions", openapi_extra=described.of(requests.Completion))
    async def complete(request: Request) -> Response:
        return await gateway.generate(
            request, requests.Completion, "/v1/completions", ("max_tokens",)
        )

    @app.post("/v1/embeddings", openapi_extra=described.of(requests.Embeddings))
    async def embed(request: Request) -> Response:
        return await gateway.plain(request, requests.Embeddings, "/v1/embeddings", role=EMBED)

    @app.post("/tokenize", openapi_extra=described.of(requests.Tokenize))
    async def tokenize(request: Request) -> Response:
        return await gateway.plain(request, requests.Tokenize, "/tokenize")

    @app.post("/detokenize", openapi_extra=described.of(requests.Detokenize))
    async def detokenize(request: Request) -> Response:
        return await gateway.plain(request, requests.Detokenize, "/detokenize")

    @app.get("/v1/models")
    async def listed(request: Request) -> dict[str, Any]:
        key = gateway.admit(request, "infer")
        allowed = [s for s in pool.models.values() if not key.models or s.name in key.models]
        data = [
            {"id": s.name, "object": "model", "created": s.created, "owned_by": "kanna"}
            for s in allowed
        ]
        return {"object": "list", "data": data}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        """200 when every loaded model answers; models that are loaded on demand count as ready."""
        waiting = [
            s.name for s in pool.models.values() if s.backend and s.backend.main.state != "ready"
        ]
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
        await gauges.read(pool)
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    # Last: routes are tried in order, and those above are asked most.
    app.include_router(admin.router(gateway, described))
    app.include_router(models.router(gateway, described))
    app.router.routes.extend(page.routes())
    described.add_to(app)
    return app


async def _unload_idle(pool: Pool, seconds: float) -> None:
    while True:
        await asyncio.sleep(max(1.0, seconds / 4))
        await pool.unload_idle()
