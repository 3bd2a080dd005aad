"""An answer of server-sent events that ends in time and cleans up after itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kanna.serving import sse
from kanna.serving.disconnect import ClientConnection, cancel_and_wait
from kanna.serving.problems import ApiError

_CLOSING_TIME = 5.0
"""Seconds that sending the last error may take."""


class EventStream(Response):
    """A stream of events; its source is closed however it ends, begun or not.

    Args:
        first: What was read of `source` already, so that an error before it could have a status of
            its own.
        source: The events after it.
        client: Who reads them.
        total: Seconds until the stream ends with an error.
        idle: Seconds without progress, of the engine or of the reader, until it does.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        source: AsyncGenerator[bytes],
        client: ClientConnection,
        *,
        total: float,
        idle: float,
    ) -> None:
        self.first, self.source, self.client = first, source, client
        self.total, self.idle = total, idle
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._last_progress = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, and its error if it has one."""
        try:
            sending = asyncio.ensure_future(self._send(send))
            try:
                problem = await self._watch(sending)
            finally:
                await cancel_and_wait(sending)
            if problem:
                # A reader that stands still must not keep this task: its connection is closed
                # instead.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_send_last(send, problem), _CLOSING_TIME)
        finally:
            self.client.stop_watching()
            await self.source.aclose()

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.first, "more_body": True})
        async for part in self.source:
            self._last_progress = loop.time()
            await send({"type": "http.response.body", "body": part, "more_body": True})
            self._last_progress = loop.time()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, sending: asyncio.Future[None]) -> ApiError | None:
        """Wait for the end of the stream.

        Returns:
            The error that the client must still get; None: nothing, or nobody is there.
        """
        loop = asyncio.get_running_loop()
        self._last_progress = loop.time()
        deadline = self._last_progress + self.total
        while True:
            timeout = min(deadline, self._last_progress + self.idle) - loop.time()
            await asyncio.wait(
                {sending, self.client.disconnected},
                timeout=timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            now = loop.time()
            if sending.done():
                error = sending.exception()
                if error is None or isinstance(error, OSError):
                    return None
                if isinstance(error, ApiError):
                    return error
                raise error
            if self.client.disconnected.done():
                return None
            if now >= self._last_progress + self.idle:
                return self.client.timed_out(f"nothing moved for {self.idle:g} seconds")
            if now >= deadline:
                return self.client.timed_out(f"the answer took longer than {self.total:g} seconds")


async def _send_last(send: Send, problem: ApiError) -> None:
    event = sse.PREFIX + problem.body() + sse.SEPARATOR
    await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
