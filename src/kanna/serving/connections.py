"""Limits of connections: their number, and how long requests and answers take on the way.

uvicorn limits none of these: a client that sends half a request, or never reads, would keep its
connection for ever.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kanna.serving.problems import overloaded
from kanna.serving.settings import GatewayLimits

_MAX_HEAD = 64 << 10
"""Bytes of a request's head."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits; `protocol` makes a class with those of a gateway."""

    limits = GatewayLimits()
    _arrival_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _between_requests = True
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse a connection above the limit; a request must arrive in time."""
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
        if self.parser is None or self.transport.is_closing():
            return
        if self._between_requests or self.cycle.response_complete:
            # The head of a request, or a body that nobody waits for any more.
            if self._arrival_timer is None:
                self._arrival_timer = self.loop.call_later(
                    self.limits.header_time, self.transport.abort
                )
            self._head_size += len(data) if self._between_requests else 0
        super().data_received(data)
        if self._head_size > _MAX_HEAD:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """The head has arrived."""
        self._between_requests, self._head_size = False, 0
        self._stop_arrival_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body has arrived."""
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
    body = overloaded("too many connections").body()
    lines = (
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "retry-after: 1",
        "connection: close",
    )
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body
