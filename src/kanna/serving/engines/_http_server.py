"""The HTTP side of an engine written in Python: loopback, the internal key, JSON in and out."""

from __future__ import annotations

import asyncio
import hmac
import json
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from kanna.errors import KannaError
from kanna.serving.engines.base import EngineConfig
from kanna.serving.engines.handshake import announce_ready

Handler = Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse]]
MAX_BODY = 64 << 20
"""Bytes of a request's body."""
LARGE = 1 << 16
"""Bytes from which on a body is parsed outside the event loop."""


class BadRequestError(Exception):
    """A request that the engine cannot answer, with the reason for the client.

    Attributes:
        kind: The type in the error that the client gets.
    """

    def __init__(self, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.kind = kind


def json_response(value: Any, status: int = 200) -> web.Response:
    """A response whose body is `value` as JSON."""
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
    """Answer requests until the process ends.

    Args:
        config: Its key is wanted on every request.
        posts: Handlers of POST by path.
        gets: Handlers of GET by path, besides `/health`.
        program: What runs the model, as `kanna ps` shows it.
    """
    asyncio.run(_serve(config.key, posts, {"/health": _health, **(gets or {})}, program))


async def _serve(
    key: str, posts: Mapping[str, Handler], gets: Mapping[str, Handler], program: str
) -> None:
    app = web.Application(client_max_size=MAX_BODY)
    for path, handler in posts.items():
        app.router.add_post(path, _guarded(handler, key))
    for path, handler in gets.items():
        app.router.add_get(path, _guarded(handler, key))
    # A client that leaves ends its handler, and with it what the engine does for it.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    announce_ready(int(runner.addresses[0][1]), program=program)
    await asyncio.Event().wait()


def _guarded(handler: Handler, key: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that checks the key, reads the body and turns errors into JSON."""

    async def handle(request: web.Request) -> web.StreamResponse:
        authorization = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(authorization, f"Bearer {key}".encode()):
            return _error("no valid key", 401)
        try:
            return await handler(await _read_json(request), request)
        except BadRequestError as error:
            return _error(str(error), 400, error.kind)
        except KannaError as error:
            return _error(error.found, 400)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            return _error(f"not understood: {type(error).__name__}: {error}", 400)
        except Exception as error:
            traceback.print_exception(error)
            return _error(f"{type(error).__name__}: {error}", 500, "server_error")

    return handle


async def _read_json(request: web.Request) -> Any:
    if not request.can_read_body:
        return {}
    data = await request.read()
    return await asyncio.to_thread(json.loads, data) if len(data) > LARGE else json.loads(data)


async def _health(_: dict[str, Any], __: web.Request) -> web.StreamResponse:
    return json_response({"status": "ok"})


def _error(message: str, status: int, kind: str = "invalid_request_error") -> web.Response:
    return json_response({"error": {"message": message, "type": kind}}, status)
