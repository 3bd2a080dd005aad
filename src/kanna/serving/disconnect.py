"""Clients that go away: what is done for them ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kanna.serving.problems import ApiError

T = TypeVar("T")
LEFT = 499
"""Status, in logs alone, of a request whose client went away."""


class Client:
    """Who waits for an answer.

    Made when the body is read: from then on only `left` asks the connection.

    Attributes:
        verdict: Status, in logs, of work that was cut short.
    """

    def __init__(self, receive: Receive) -> None:
        self.left = asyncio.ensure_future(_left(receive))
        self.verdict = LEFT

    async def waits_for(self, work: Coroutine[Any, Any, T] | Awaitable[T], seconds: float) -> T:
        """The result of `work`, which is cancelled when the client leaves (ApiError 499) or time is up (504)."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait(
                {task, self.left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if self.left.done():
                raise ApiError(LEFT, "the client went away", code="client_left")
            raise self.late(f"the answer took longer than {seconds:g} seconds")
        finally:
            await ended(task)

    def late(self, why: str) -> ApiError:
        self.verdict = 504
        return ApiError(504, why, "server_error", "timeout")

    def forget(self) -> None:
        self.left.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; what it raises is of no interest any more."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class Events(Response):
    """A stream of server-sent events that cleans up after itself, however it ends, begun or not.

    Attributes:
        first: What was read of `source` already, so that an error before it could have a status of
            its own.
        total: Seconds until the stream ends with an error.
        idle: Seconds without progress, of the engine or of the reader, until it does.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        first: bytes,
        source: AsyncGenerator[bytes],
        client: Client,
        *,
        total: float,
        idle: float,
    ) -> None:
        self.first, self.source, self.client, self.total, self.idle = (
            first,
            source,
            client,
            total,
            idle,
        )
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._moved = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            work = asyncio.ensure_future(self._send(send))
            try:
                problem = await self._watch(work)
            finally:
                await ended(work)
            if problem:
                last = b"data: " + problem.body() + b"\n\n"
                # A reader that stands still must not keep this task: its connection is closed
                # instead.
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_end(send, last), 5)
        finally:
            self.client.forget()
            await self.source.aclose()

    async def _send(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.first, "more_body": True})
        async for part in self.source:
            self._moved = loop.time()
            await send({"type": "http.response.body", "body": part, "more_body": True})
            self._moved = loop.time()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, work: asyncio.Future[None]) -> ApiError | None:
        """What the client must still be told when the stream is over; None: nothing."""
        loop = asyncio.get_running_loop()
        self._moved = loop.time()
        end = self._moved + self.total
        while True:
            patience = min(end, self._moved + self.idle) - loop.time()
            await asyncio.wait(
                {work, self.client.left}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            now = loop.time()
            if work.done():
                error = work.exception()
                if error is None or isinstance(error, OSError):
                    return None
                if isinstance(error, ApiError):
                    return error
                raise error
            if self.client.left.done():
                return None
            if now >= self._moved + self.idle:
                return self.client.late(f"nothing moved for {self.idle:g} seconds")
            if now >= end:
                return self.client.late(f"the answer took longer than {self.total:g} seconds")


async def _end(send: Send, last: bytes) -> None:
    await send({"type": "http.response.body", "body": last, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
