"""A bounded queue in front of an engine."""

from __future__ import annotations

import asyncio
from collections import deque

from kanna.serving.problems import busy


class Gate:
    """Lets `width` requests through at a time and `depth` more wait; first come, first served."""

    def __init__(self, width: int, depth: int, patience: float = 60.0) -> None:
        self.width, self.depth, self.patience = width, depth, patience
        self.inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def enter(self) -> None:
        """Raises ApiError 503 when the queue is full, or when nobody left in time."""
        if self.inside < self.width and not self._waiting:
            self.inside += 1
            return
        if len(self._waiting) >= self.depth:
            raise busy(
                f"{self.inside} requests run and {len(self._waiting)} wait, which is the limit"
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait_for(turn, self.patience)
        except asyncio.TimeoutError:
            self._leave_queue(turn)
            raise busy(f"no slot became free within {self.patience:.0f} seconds", 5) from None
        except asyncio.CancelledError:
            self._leave_queue(turn)
            raise

    def _leave_queue(self, turn: asyncio.Future[None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled():
            self.leave()  # the turn came as we left

    def leave(self) -> None:
        self.inside -= 1
        while self._waiting and self.inside < self.width:
            turn = self._waiting.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)
