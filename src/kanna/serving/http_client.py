"""A small HTTP/1.1 client for requests to an engine on this machine.

Each request has a connection of its own: an idle one would hold a thread of llama.cpp's server, and
loopback opens one in no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

_MAX_BUFFERED = 1 << 20
"""Bytes that may wait here for a reader before the engine has to."""
_MAX_HEAD = 1 << 16
"""Bytes of a response's head."""


class EngineConnectionError(Exception):
    """The engine is gone, or does not speak HTTP."""


class EngineResponse(asyncio.Protocol):
    """A response: its status, then its body in parts as they arrive.

    Close it, or the engine goes on although nobody reads.

    Args:
        request: Head and body, as they are sent.

    Attributes:
        status: Of HTTP; 0 until the head has come.
    """

    def __init__(self, request: bytes) -> None:
        self.status = 0
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unparsed = b""
        self._parts: list[bytes] = []
        self._buffered = 0  # bytes in them
        self._remaining: int | None = None  # bytes of the body; None: until the connection ends
        self._chunked = self._has_head = self._ended = False
        self._error: Exception | None = None
        self._paused = False

    async def wait_for_head(self) -> None:
        """Return when the status is known; raises EngineConnectionError."""
        while not self._has_head:
            await self._next_arrival()

    async def parts(self) -> AsyncGenerator[bytes]:
        """The body as it comes, several arrivals at a time when the reader is slower.

        Raises:
            EngineConnectionError: The connection broke.
        """
        while True:
            if self._parts:
                part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._buffered = 0
                if self._paused and self._transport:
                    self._paused = False
                    self._transport.resume_reading()
                yield part
            elif self._ended:
                return
            else:
                await self._next_arrival()

    async def read(self) -> bytes:
        """The whole body; raises EngineConnectionError."""
        return b"".join([part async for part in self.parts()])

    def close(self) -> None:
        """End the connection, whether or not the body is complete."""
        if self._transport:
            self._transport.abort()

    async def _next_arrival(self) -> None:
        if self._error:
            raise EngineConnectionError(str(self._error))
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Parse what has come; stop reading while too much waits for the reader."""
        try:
            self._parse(self._unparsed + data if self._unparsed else data)
        except (ValueError, IndexError) as error:
            self._error = error
            self.close()
        if self._buffered > _MAX_BUFFERED and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the body, in order or with an error."""
        if not self._ended and not self._error:
            if self._has_head and self._remaining is None and not self._chunked and exc is None:
                self._ended = True
            else:
                self._error = exc or ConnectionError("the connection ended")
        self._wake()

    def _parse(self, data: bytes) -> None:
        if not self._has_head:
            cut = data.find(b"\r\n\r\n")
            if cut < 0:
                if len(data) > _MAX_HEAD:
                    raise ValueError("no end of the head")
                self._unparsed = data
                return
            self._parse_head(data[:cut])
            data = data[cut + 4 :]
        if self._chunked:
            self._parse_chunks(data)
        else:
            self._parse_plain(data)

    def _parse_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split(b" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                self._remaining = int(value)
            elif name == b"transfer-encoding":
                self._chunked = value.strip().lower() == b"chunked"
        self._has_head = True
        self._ended = self._remaining == 0 and not self._chunked

    def _parse_plain(self, data: bytes) -> None:
        self._unparsed = b""
        if self._remaining is not None:
            data = data[: self._remaining]
            self._remaining -= len(data)
            self._ended = self._remaining == 0
        self._append(data)

    def _parse_chunks(self, data: bytes) -> None:
        at = 0
        while not self._ended:
            cut = data.find(b"\r\n", at)
            if cut < 0:
                break
            size = int(data[at:cut].split(b";", 1)[0], 16)
            if len(data) < cut + 2 + size + 2:
                break  # the chunk is not whole: engines send small ones
            if size == 0:
                self._ended = True
                break
            self._append(data[cut + 2 : cut + 2 + size])
            at = cut + 4 + size
        self._unparsed = data[at:]

    def _append(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._buffered += len(data)


async def request(
    port: int, path: str, headers: bytes, body: bytes = b"", *, method: str = "POST"
) -> EngineResponse:
    """Send a request and wait for the status of its response.

    Args:
        port: Of the loopback interface.
        path: Of the route.
        headers: Lines that all requests share.
        body: Empty for none.
        method: Of HTTP.

    Raises:
        EngineConnectionError: Nobody is there.
    """
    first = f"{method} {path} HTTP/1.1\r\n".encode()
    data = first + headers + b"content-length: %d\r\n\r\n" % len(body) + body
    try:
        _, response = await asyncio.get_running_loop().create_connection(
            lambda: EngineResponse(data), "127.0.0.1", port
        )
    except OSError as error:
        raise EngineConnectionError(str(error)) from error
    try:
        await response.wait_for_head()
    except BaseException:
        response.close()
        raise
    return response
