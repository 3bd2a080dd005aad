"""A request to an engine on this machine.

HTTP/1.1 over a connection of its own, and nothing that takes time.

Connections are not kept: an idle one would hold a thread of llama.cpp's server, and loopback opens
one in no time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

_HELD = 1 << 20
"""Bytes that may wait here for a reader before the engine has to."""
_HEAD = 1 << 16


class LineError(Exception):
    """The engine is gone, or does not speak HTTP."""


class Answer(asyncio.Protocol):
    """What comes back: `status`, then the body in parts as they arrive.

    Close it, or the engine goes on for nobody.
    """

    def __init__(self, request: bytes) -> None:
        self.status = 0
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._rest = b""  # what was not understood yet
        self._parts: list[bytes] = []
        self._held = 0
        self._left: int | None = None  # of the body or of a chunk; None: until the connection ends
        self._chunked = self._headed = self._ended = False
        self._error: Exception | None = None
        self._paused = False

    async def head(self) -> None:
        """Wait for the status. Raises LineError."""
        while not self._headed:
            await self._more()

    async def parts(self) -> AsyncGenerator[bytes]:
        """The body as it comes, several arrivals at a time when the reader is slower.

        Raises LineError.
        """
        while True:
            if self._parts:
                part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._held = 0
                if self._paused and self._transport:
                    self._paused = False
                    self._transport.resume_reading()
                yield part
            elif self._ended:
                return
            else:
                await self._more()

    async def read(self) -> bytes:
        """The whole body. Raises LineError."""
        found = b""
        async for part in self.parts():
            found = found + part if found else part
        return found

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    async def _more(self) -> None:
        if self._error:
            raise LineError(str(self._error))
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # Of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        try:
            self._read(self._rest + data if self._rest else data)
        except (ValueError, IndexError) as error:
            self._error = error
            self.close()
        if self._held > _HELD and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended and not self._error:
            if self._headed and self._left is None and not self._chunked and exc is None:
                self._ended = True
            else:
                self._error = exc or ConnectionError("the connection ended")
        self._wake()

    def _read(self, data: bytes) -> None:
        if not self._headed:
            cut = data.find(b"\r\n\r\n")
            if cut < 0:
                if len(data) > _HEAD:
                    raise ValueError("no end of the head")
                self._rest = data
                return
            self._read_head(data[:cut])
            data = data[cut + 4 :]
        if not self._chunked:
            self._plain(data)
            return
        self._chunks(data)

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        self.status = int(first.split(b" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                self._chunked = value.strip().lower() == b"chunked"
        self._headed = True
        self._ended = self._left == 0 and not self._chunked

    def _plain(self, data: bytes) -> None:
        self._rest = b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self._ended = self._left == 0
        self._keep(data)

    def _chunks(self, data: bytes) -> None:
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
            self._keep(data[cut + 2 : cut + 2 + size])
            at = cut + 4 + size
        self._rest = data[at:]

    def _keep(self, data: bytes) -> None:
        if data:
            self._parts.append(data)
            self._held += len(data)


async def post(port: int, path: str, head: bytes, body: bytes) -> Answer:
    """`send` by POST."""
    return await send(port, "POST", path, head, body)


async def send(port: int, method: str, path: str, head: bytes, body: bytes = b"") -> Answer:
    """Send a request and wait for the status of its answer.

    Raises LineError when nobody is there.

    Args:
        head: Header lines that all requests share.
    """
    first = f"{method} {path} HTTP/1.1\r\n".encode()
    request = first + head + b"content-length: %d\r\n\r\n" % len(body) + body
    try:
        _, answer = await asyncio.get_running_loop().create_connection(
            lambda: Answer(request), "127.0.0.1", port
        )
    except OSError as error:
        raise LineError(str(error)) from error
    try:
        await answer.head()
    except BaseException:
        answer.close()
        raise
    return answer
