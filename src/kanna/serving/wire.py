"""Connections: how many there are, how long a request may take to arrive, and how long an answer may go unread.

uvicorn limits none of these: a client that sends half a request, or never reads, would keep its connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kanna.serving.problems import busy
from kanna.serving.settings import Limits

_HEAD = 64 << 10


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """A protocol for uvicorn's `http` that holds connections to `limits`."""

    class Guarded(HttpToolsProtocol):
        _arriving: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _between, _head = True, 0  # not inside a request; bytes of the next one's head

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(_too_many())
                transport.close()
                return
            self._arriving = self.loop.call_later(limits.header_time, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.parser is None or self.transport.is_closing():
                return
            if self._between or self.cycle.response_complete:
                # The head of a request, or a body that nobody waits for any more.
                if self._arriving is None:
                    self._arriving = self.loop.call_later(limits.header_time, self.transport.abort)
                self._head += len(data) if self._between else 0
            super().data_received(data)
            if self._head > _HEAD:
                self.transport.abort()

        def on_headers_complete(self) -> None:
            self._between, self._head = False, 0
            self._arrived()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._between = True
            self._arrived()
            super().on_message_complete()

        def _arrived(self) -> None:
            if self._arriving is not None:
                self._arriving.cancel()
                self._arriving = None

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._unread = self.loop.call_later(limits.stall_time, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _stop(self) -> None:
            self._arrived()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return Guarded


def _too_many() -> bytes:
    problem: Any = busy("too many connections")
    body = problem.body()
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return (head + "retry-after: 1\r\nconnection: close\r\n\r\n").encode() + body
