"""The gateway as an ASGI application: its routes, its lifetime, and what every answer has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from kanna import __version__
from kanna.serving import heap, openapi, page
from kanna.serving.disconnect import CLIENT_CLOSED_REQUEST
from kanna.serving.gateway import Gateway
from kanna.serving.guard.headers import SecurityHeaders
from kanna.serving.guard.ledger import Ledger
from kanna.serving.guard.origins import OriginGuard
from kanna.serving.guard.store import KeyStore
from kanna.serving.pool import ModelPool
from kanna.serving.problems import ApiError
from kanna.serving.routes import inference, keys, models, monitoring
from kanna.serving.settings import GatewaySettings
from kanna.serving.traces import TraceExporter


class AppExtension(Protocol):
    """Routes and work besides the gateway's own, such as the studio's.

    Attributes:
        mark: An attribute of the page's root element, by which its scripts know of the extension.
    """

    mark: str

    def router(self, gateway: Gateway) -> APIRouter:
        """Its routes."""
        ...

    async def start(self) -> None:
        """The gateway is up."""
        ...

    async def stop(self) -> None:
        """The gateway ends."""
        ...


def create_app(
    pool: ModelPool,
    store: KeyStore,
    settings: GatewaySettings,
    on_started: Callable[[], None] = lambda: None,
    traces: TraceExporter | None = None,
    extension: AppExtension | None = None,
) -> FastAPI:
    """The application.

    Args:
        pool: Of its models.
        store: Of its keys.
        settings: What it is started with.
        on_started: Called when requests may come.
        traces: Gets a span per request; None: no traces.
        extension: More routes, and a mark on the page; None: none.
    """
    gateway = Gateway(pool, store, settings, traces)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with _running(gateway, traces):
            if extension:
                await extension.start()
            try:
                on_started()
                yield
            finally:
                if extension:
                    await extension.stop()

    app = FastAPI(
        title="kanna",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=openapi.ERROR_RESPONSES,
    )
    refused = gateway.metrics.refused
    app.add_middleware(
        OriginGuard,
        settings=settings,
        on_refused=lambda status: gateway.metrics.series(refused, str(status)).inc(),
    )
    app.add_middleware(SecurityHeaders)
    _add_error_handlers(app, gateway)
    schemas = openapi.BodySchemas()
    # Routes are tried in order: those that are asked most come first.
    app.include_router(inference.router(gateway, schemas))
    app.include_router(monitoring.router(gateway))
    app.include_router(keys.router(gateway, schemas))
    app.include_router(models.router(gateway, schemas))
    if extension:
        app.include_router(extension.router(gateway))
    app.router.routes.extend(page.routes(extension.mark if extension else ""))
    schemas.add_to(app)
    return app


@asynccontextmanager
async def _running(gateway: Gateway, traces: TraceExporter | None) -> AsyncGenerator[None]:
    """The time between the start and the end of the gateway."""
    pool, settings = gateway.pool, gateway.settings
    ledger = gateway.accounting.ledger = Ledger(gateway.store, settings.audit)
    # The engine's connections are not kept: an idle one holds a thread of its server.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        pool.start(session)
        kept = [asyncio.create_task(heap.keep_level())]
        if settings.idle:
            kept.append(asyncio.create_task(_unload_idle(pool, settings.idle)))
        try:
            yield
        finally:
            for task in kept:
                task.cancel()
            gateway.constraints.stop()
            await pool.stop()
            await gateway.keyring.close()
            await asyncio.to_thread(ledger.close)
            if traces:
                await asyncio.to_thread(traces.close)


async def _unload_idle(pool: ModelPool, seconds: float) -> None:
    while True:
        await asyncio.sleep(max(1.0, seconds / 4))
        await pool.loader.unload_idle()


def _add_error_handlers(app: FastAPI, gateway: Gateway) -> None:
    """Give every error OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def refuse(_: Request, problem: ApiError) -> Response:
        if problem.status != CLIENT_CLOSED_REQUEST:
            metrics = gateway.metrics
            metrics.series(metrics.refused, str(problem.status)).inc()
        return _error_response(problem)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return _error_response(
            ApiError(500, "the gateway failed at this request", "server_error", "internal_error")
        )

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: Request, _: Exception) -> Response:
        place = f"{request.method} {request.url.path[:200]}"
        return _error_response(ApiError(404, f"there is nothing at {place}", code="not_found"))


def _error_response(problem: ApiError) -> Response:
    return Response(problem.body(), problem.status, problem.headers())
