"""Limits of connections: their number, and how long requests and answers take on the way.

uvicorn limits none of these: a client that sends half a request, or never reads, would keep its
connection for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kanna.serving.problems import ApiError, overloaded
from kanna.serving.settings import GatewayLimits

_MAX_HEAD = 64 << 10
"""Bytes of a request's head."""
_MAX_HEADERS, _MAX_PIPELINED = 200, 32
_TINY, _MAX_TINY = 16, 4096
"""Bytes of a chunk, and how many smaller ones a body may have."""
_LINGERING = 2.0
"""Seconds for which what follows a refusal is thrown away, so that the refusal arrives."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits; `protocol` makes a class with those of a gateway."""

    limits = GatewayLimits()
    _arrival_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _between_requests = True
    _head_size = 0
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection above the limit; a request must arrive in time."""
        self._body_parts: list[bytes] = []
        self._cycles: list[RequestResponseCycle] = []
        self._tiny_chunks = 0
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_too_many_connections())
            transport.close()
            return
        self._arrival_timer = self.loop.call_later(self.limits.header_time, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_arrival_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Abort a connection whose head is too long, or comes too slowly."""
        if self._refused or self.parser is None or self.transport.is_closing():
            return  # what still comes after a refusal is not read
        if self._between_requests or self.cycle.response_complete:
            # The head of a request, or a body that nobody waits for any more.
            if self._arrival_timer is None:
                self._arrival_timer = self.loop.call_later(
                    self.limits.header_time, self.transport.abort
                )
            self._head_size += len(data) if self._between_requests else 0
        super().data_received(data)
        self._pass_body_on()
        if self._head_size > _MAX_HEAD:
            self.send_400_response("")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, unless there are too many."""
        if len(self.headers) >= _MAX_HEADERS:
            self._head_size = _MAX_HEAD + 1
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has arrived."""
        if not self.url.startswith(b"/") and not self._is_proxied():
            raise ValueError("another host in the target")
        if self.parser is None or self.parser.get_http_version() not in {"1.0", "1.1"}:
            raise ValueError("another version")
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("too many requests before the first answer")
        self._tiny_chunks = 0
        self._between_requests, self._head_size = False, 0
        self._stop_arrival_timer()
        super().on_headers_complete()
        self._cycles = [c for c in self._cycles if not c.response_complete]
        self._cycles.append(self.cycle)

    def _is_proxied(self) -> bool:
        """Whether the target names the host as the header does, or the server as a whole."""
        if self.url == b"*":
            return self.parser is not None and self.parser.get_method() == b"OPTIONS"
        host = b"".join(value for name, value in self.headers if name == b"host")
        authority = self.url.partition(b"://")[2].partition(b"/")[0]
        return bool(authority) and authority.lower() == host.lower()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and read no more of it.

        The connection stays open a moment for what is on its way: were it closed at once, the
        client would find a connection that broke in place of the answer.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_arrival_timer()
        for cycle in self._cycles:  # earlier requests of this connection, still being answered
            cycle.disconnected = True
            cycle.message_event.set()
        self.pipeline.clear()
        too_large = self._head_size > _MAX_HEAD
        self.transport.write(_no_request(too_large=too_large))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGERING, self.transport.abort)

    def on_body(self, body: bytes) -> None:
        """Gather a part of the body; a body in thousands of tiny parts is no honest one."""
        if len(body) < _TINY:
            self._tiny_chunks += 1
            if self._tiny_chunks > _MAX_TINY:
                raise ValueError("too many tiny chunks")
        self._body_parts.append(body)

    def _pass_body_on(self) -> None:
        """Give what was gathered to who reads it, at once: each time what waits is copied."""
        if self._body_parts:
            parts, self._body_parts = self._body_parts, []
            super().on_body(b"".join(parts))

    def on_message_complete(self) -> None:
        """The body has arrived."""
        self._pass_body_on()
        self._between_requests = True
        self._stop_arrival_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read: it must go on in time."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.limits.stall_time, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._stop_unread_timer()

    def _stop_arrival_timer(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def protocol(limits: GatewayLimits) -> type[HttpToolsProtocol]:
    """A class for uvicorn's option `http` that holds connections to `limits`."""
    return type("GatewayHttpProtocol", (LimitedHttpProtocol,), {"limits": limits})


def _too_many_connections() -> bytes:
    return _answer(overloaded("too many connections"), "Service Unavailable")


def _no_request(*, too_large: bool) -> bytes:
    if too_large:
        message = f"the head is larger than {_MAX_HEAD} bytes, or has over {_MAX_HEADERS} headers"
        problem = ApiError(431, message, code="headers_too_large")
        return _answer(problem, "Request Header Fields Too Large")
    problem = ApiError(400, "this is no request of HTTP/1.1", code="malformed_request")
    return _answer(problem, "Bad Request")


def _answer(problem: ApiError, reason: str) -> bytes:
    """An error of the connection, before there is a request."""
    body = problem.body()
    headers = problem.headers() | {"content-length": str(len(body)), "connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body
