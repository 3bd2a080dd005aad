"""The server of a fleet as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from kanna import __version__
from kanna.fleet import page, problems
from kanna.fleet.routes import devices, operators
from kanna.fleet.service import FleetService
from kanna.serving.guard.headers import SecurityHeaders
from kanna.serving.problems import ApiError


def create_app(service: FleetService, started: Callable[[], None] = lambda: None) -> FastAPI:
    """The application.

    Args:
        service: Its parts.
        started: Called when requests may come.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await service.start()
        try:
            started()
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="kanna fleet",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.add_middleware(SecurityHeaders)
    app.include_router(devices.router(service))
    app.include_router(operators.router(service))
    app.router.routes.extend(page.routes())
    _add_error_handlers(app, service)
    return app


def _add_error_handlers(app: FastAPI, service: FleetService) -> None:
    def answer(problem: ApiError) -> Response:
        service.metrics.refused.labels(str(problem.status)).inc()
        return Response(problem.body(), problem.status, problem.headers())

    @app.exception_handler(ApiError)
    async def refuse(_: Request, problem: ApiError) -> Response:
        return answer(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(problems.bad(f"{first['loc'][-1]}: {first['msg']}"[:500]))

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return answer(
            ApiError(500, "the server failed at this request", "server_error", "internal_error")
        )

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nowhere(request: Request, _: Exception) -> Response:
        place = f"{request.method} {request.url.path[:200]}"
        return answer(ApiError(404, f"there is nothing at {place}", code="not_found"))
