"""A bounded queue that admits requests to an engine."""

from __future__ import annotations

import asyncio
from collections import deque

from kanna.serving.problems import overloaded


class AdmissionQueue:
    """Admits requests in the order of their arrival.

    Args:
        limit: Requests that may run at a time.
        max_waiting: Requests that may wait; more are refused.
        timeout: Seconds that one may wait.

    Attributes:
        running: Requests that were admitted and have not ended.
    """

    def __init__(self, limit: int, max_waiting: int, timeout: float = 60.0) -> None:
        self.limit, self.max_waiting, self.timeout = limit, max_waiting, timeout
        self.running = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def acquire(self) -> None:
        """Return when the request may run.

        Raises:
            ApiError: 503: the queue is full, or nothing ended in time.
        """
        if self.running < self.limit and not self._queue:
            self.running += 1
            return
        if len(self._queue) >= self.max_waiting:
            raise overloaded(
                f"{self.running} requests run and {len(self._queue)} wait, which is the limit"
            )
        admitted = asyncio.get_running_loop().create_future()
        self._queue.append(admitted)
        try:
            await asyncio.wait_for(admitted, self.timeout)
        except asyncio.TimeoutError:
            self._withdraw(admitted)
            raise overloaded(f"no slot became free within {self.timeout:.0f} seconds", 5) from None
        except asyncio.CancelledError:
            self._withdraw(admitted)
            raise

    def _withdraw(self, admitted: asyncio.Future[None]) -> None:
        if admitted in self._queue:
            self._queue.remove(admitted)
        elif admitted.done() and not admitted.cancelled():
            self.release()  # it was admitted in the moment it gave up

    def release(self) -> None:
        """End a request, and admit the next ones."""
        self.running -= 1
        while self._queue and self.running < self.limit:
            admitted = self._queue.popleft()
            if not admitted.done():
                self.running += 1
                admitted.set_result(None)
