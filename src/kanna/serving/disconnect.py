"""Clients that disconnect: what is done for them ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from kanna.serving.problems import ApiError

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499
"""Status, in logs alone, of a request whose client disconnected; nginx has it too."""


class ClientConnection:
    """The client that waits for an answer.

    Make it when the body is read: from then on only `disconnected` reads from the connection.

    Attributes:
        disconnected: Done when the client is gone.
        cancelled_status: Status, in logs, of work that was cancelled.
    """

    def __init__(self, receive: Receive) -> None:
        self.disconnected = asyncio.ensure_future(_until_disconnect(receive))
        self.cancelled_status = CLIENT_CLOSED_REQUEST

    async def run(self, work: Coroutine[Any, Any, T] | Awaitable[T], seconds: float) -> T:
        """The result of `work`, which is cancelled when nobody waits for it any more.

        Raises:
            ApiError: 499: the client disconnected; 504: it took longer than `seconds`.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait(
                {task, self.disconnected}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if self.disconnected.done():
                raise ApiError(CLIENT_CLOSED_REQUEST, "the client went away", code="client_left")
            raise self.timed_out(f"the answer took longer than {seconds:g} seconds")
        finally:
            await cancel_and_wait(task)

    def timed_out(self, message: str) -> ApiError:
        """The error of an answer that takes too long; the work is logged with its status."""
        self.cancelled_status = 504
        return ApiError(504, message, "server_error", "timeout")

    def stop_watching(self) -> None:
        """Read no more from the connection."""
        self.disconnected.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_and_wait(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; what it raises is ignored."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
