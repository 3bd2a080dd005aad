"""The HTTP side of an engine that is Python: loopback, the internal key, JSON in and out."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from kanna.errors import KannaError
from kanna.serving.engines.base import EngineConfig, ready

Handler = Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse]]
BODY = 64 << 20


class Refused(Exception):
    """A request the engine cannot answer; the client is told why. kind: the type in its error."""

    def __init__(self, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.kind = kind


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=json.dumps(value, ensure_ascii=False).encode(),
        status=status,
        content_type="application/json",
    )


def serve(
    config: EngineConfig,
    posts: Mapping[str, Handler],
    gets: Mapping[str, Handler] | None = None,
    *,
    program: str,
) -> None:
    """Answer POST and GET at the given paths until the process ends; `/health` is there already."""

    def guarded(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {config.key}".encode()):
                return _error("no valid key", 401)
            try:
                body = await request.json() if request.can_read_body else {}
                return await handler(body, request)
            except Refused as error:
                return _error(str(error), 400, error.kind)
            except KannaError as error:
                return _error(error.found, 400)
            except (ValueError, KeyError, TypeError) as error:
                return _error(f"not understood: {type(error).__name__}: {error}", 400)

        return handle

    async def run() -> None:
        app = web.Application(client_max_size=BODY)
        app.router.add_get("/health", guarded(_health))
        for path, handler in posts.items():
            app.router.add_post(path, guarded(handler))
        for path, handler in (gets or {}).items():
            app.router.add_get(path, guarded(handler))
        # A client that leaves ends its handler, and with it what the engine does for it.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        ready(int(runner.addresses[0][1]), program=program)
        await asyncio.Event().wait()

    asyncio.run(run())


async def _health(_: dict[str, Any], __: web.Request) -> web.StreamResponse:
    return answer({"status": "ok"})


def _error(message: str, status: int, kind: str = "invalid_request_error") -> web.Response:
    return answer({"error": {"message": message, "type": kind}}, status)
