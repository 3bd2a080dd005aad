"""Which web pages may ask: none but our own, unless the operator names them.

Where no key is asked for, any page that a browser shows could otherwise post to the gateway of its
machine, or call it by a name of its own that leads to 127.0.0.1 and read the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kanna.serving.problems import ApiError
from kanna.serving.settings import Settings

ANY = "*"
_ALIVE = ("/health", "/ready")


class Origins:
    """ASGI middleware. refused: called with the status of each request that is turned away."""

    def __init__(
        self, app: ASGIApp, settings: Settings, refused: Callable[[int], None] = lambda _: None
    ) -> None:
        self.app, self.allowed, self.refused = app, frozenset(settings.origins), refused
        self.keyless = not settings.keys_needed
        self.local = self.keyless and settings.loopback and not settings.open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        welcome = bool(origin) and (ANY in self.allowed or origin in self.allowed)
        if problem := self._problem(scope, headers.get("host", ""), "" if welcome else origin):
            self.refused(problem.status)
            told = {k.decode(): v.decode() for k, v in problem.headers()}
            await Response(problem.body(), problem.status, told)(scope, receive, send)
        elif not welcome:
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            more = {
                "access-control-allow-methods": "GET, POST, PUT, DELETE",
                "access-control-max-age": "600",
                "access-control-allow-headers": headers.get("access-control-request-headers", ""),
            }
            await Response(status_code=204, headers=self._shared(origin) | more)(
                scope, receive, send
            )
        else:
            await self.app(scope, receive, self._sharing(send, origin))

    def _problem(self, scope: Scope, host: str, origin: str) -> ApiError | None:
        if self.local and scope["path"] not in _ALIVE and not _loopback(host):
            return ApiError(
                403,
                f"asked as {host[:100]!r}, which is no name of this machine's loopback: use keys "
                "(--keys), or --open-to-all",
                "permission_error",
                "host_not_allowed",
            )
        if (
            self.keyless
            and origin
            and scope["method"] not in {"GET", "HEAD"}
            and urlsplit(origin).netloc != host
        ):
            return ApiError(
                403,
                f"pages of {origin[:100]!r} may not ask here: --cors-origin names those that may",
                "permission_error",
                "origin_not_allowed",
            )
        return None

    def _shared(self, origin: str) -> dict[str, str]:
        return {"access-control-allow-origin": origin, "vary": "Origin"}

    def _sharing(self, send: Send, origin: str) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(
                    self._shared(origin) | {"access-control-expose-headers": "retry-after"}
                )
            await send(message)

        return told


def _loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return not host  # HTTP/1.0; no browser leaves it out
