"""Which web pages may use the gateway: none but its own, unless the operator names them.

Where no key is wanted, any page in a browser could otherwise post to the gateway of its machine, or
reach it by a host name of its own that resolves to 127.0.0.1 and read the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kanna.serving.problems import ApiError
from kanna.serving.settings import GatewaySettings

ANY = "*"
_PROBES = ("/health", "/ready")
_NAME = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,255})(?::[0-9]{1,5})?"
_HOST = re.compile(rf"(?:{_NAME})?")
_ORIGIN = re.compile(rf"null|[A-Za-z][A-Za-z0-9+.-]{{0,63}}://{_NAME}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class OriginGuard:
    """ASGI middleware that refuses requests of other pages, and answers CORS for those allowed.

    Args:
        app: The application behind it.
        settings: Of the gateway.
        on_refused: Called with the status of each request that is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        on_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.app, self.allowed, self.on_refused = app, frozenset(settings.origins), on_refused
        self.keyless = not settings.keys_needed
        self.local = self.keyless and settings.loopback and not settings.open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if problem := _malformed(scope, headers):
            self.on_refused(problem.status)
            response = Response(problem.body(), problem.status, problem.headers())
            await response(scope, receive, send)
            return
        origin = headers.get("origin", "")
        allowed = bool(origin) and (ANY in self.allowed or origin in self.allowed)
        if problem := self._problem(scope, headers.get("host", ""), "" if allowed else origin):
            self.on_refused(problem.status)
            response = Response(problem.body(), problem.status, problem.headers())
            await response(scope, receive, send)
        elif not allowed:
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            preflight = {
                "access-control-allow-methods": "GET, POST, PUT, DELETE",
                "access-control-max-age": "600",
                "access-control-allow-headers": headers.get("access-control-request-headers", ""),
            }
            await Response(status_code=204, headers=_cors_headers(origin) | preflight)(
                scope, receive, send
            )
        else:
            await self.app(scope, receive, _with_cors(send, origin))

    def _problem(self, scope: Scope, host: str, origin: str) -> ApiError | None:
        if self.local and scope["path"] not in _PROBES and not _is_loopback(host):
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
            and origin.partition("://")[2] != host
        ):
            return ApiError(
                403,
                f"pages of {origin[:100]!r} may not ask here: --cors-origin names those that may",
                "permission_error",
                "origin_not_allowed",
            )
        return None


def _malformed(scope: Scope, headers: Headers) -> ApiError | None:
    """What is wrong with the names and the path of a request, by which it is judged."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) > 1 or not all(_HOST.fullmatch(host) for host in hosts):
        return _bad("Host", hosts)
    if len(origins) > 1 or not all(_ORIGIN.fullmatch(origin) for origin in origins):
        return _bad("Origin", origins)
    if _CONTROLS.search(scope["path"]):
        return ApiError(400, "the path has control characters", code="malformed_request")
    return None


def _bad(name: str, values: list[str]) -> ApiError:
    given = ", ".join(values)[:100]
    return ApiError(400, f"the header {name} is {given!r}", code="malformed_request")


def _cors_headers(origin: str) -> dict[str, str]:
    return {"access-control-allow-origin": origin, "vary": "Origin"}


def _with_cors(send: Send, origin: str) -> Send:
    """`send`, with the headers that let a page of `origin` read the answer."""

    async def send_shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_cors_headers(origin) | {"access-control-expose-headers": "retry-after"})
        await send(message)

    return send_shared


def _is_loopback(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") or host.partition(":")[0].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return not host  # HTTP/1.0; no browser leaves it out
