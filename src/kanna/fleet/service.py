"""What the routes share: who asks, what was sent, and the one thread that uses the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from kanna.errors import KannaError
from kanna.fleet import problems
from kanna.fleet.access import DEVICE, OPERATOR, VIEWER, KeyBook, Visitor
from kanna.fleet.blobs import BlobFolder
from kanna.fleet.controller import Controller
from kanna.fleet.databases import DatabaseAwayError
from kanna.fleet.decision import RUNNING
from kanna.fleet.metrics import FleetMetrics
from kanna.fleet.records import FleetDevice, FleetRollout
from kanna.fleet.store import FleetStore
from kanna.serving.problems import ApiError

SMALL = 256 << 10
"""Bytes of a body, but of a manifest and of a slice."""
_BODY_SECONDS = 30.0
_TICK = 1.0
_ALLOWED = {DEVICE: {DEVICE}, OPERATOR: {OPERATOR}, VIEWER: {OPERATOR, VIEWER}}

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


class FleetService:
    """The parts of a running server.

    Args:
        store: Of devices, artefacts and rollouts.
        folder: Of its state.
        poll: Seconds between two questions of a device.
    """

    def __init__(self, store: FleetStore, folder: Path, poll: float) -> None:
        self.store, self.poll = store, poll
        self.keys = KeyBook(store)
        self.blobs = BlobFolder(folder / "blobs")
        self.metrics = FleetMetrics()
        self.controller = Controller(store, self._ended)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fleet")
        self._seen: dict[str, float] = {}
        self._ticking: asyncio.Task[None] | None = None

    def _ended(self, rollout: FleetRollout) -> None:
        if rollout.ended is not None:
            self.metrics.ended.labels(rollout.state).inc()

    async def start(self) -> None:
        """Begin to look at rollouts."""
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """End it, and keep when devices were seen."""
        if self._ticking:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        await self.call(self._keep_seen)
        self._thread.shutdown()

    async def _tick(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            elapsed, before = now - before, now
            with suppress(Exception):  # a full disk now is no reason not to look again
                await self.call(self._keep_seen)
                await self.call(lambda elapsed=elapsed: self._look(elapsed))

    def _look(self, elapsed: float) -> None:
        """Open rings, where no other server of this database does."""
        if self.store.leads():
            self.controller.tick(elapsed)

    def _keep_seen(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            self.store.saw(seen.items())

    async def call(self, work: Callable[[], T]) -> T:
        """What a function that uses the store gives, errors of ours as answers."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except DatabaseAwayError as error:
            raise problems.of(error, 503) from None
        except KannaError as error:
            raise problems.of(error) from None

    # Requests

    async def authorize(self, request: Request, role: str) -> Visitor:
        """Who asks, where the key is of that role; raises ApiError 401 or 403."""
        key = _key_of(request)
        visitor = await self.call(lambda: self.keys.visitor(key)) if key else None
        return _allowed(visitor, role)

    async def device(self, request: Request, work: Callable[[FleetDevice], T]) -> T:
        """What a function gives for the device that asks: both in one turn of the thread.

        Raises:
            ApiError: 401 or 403, and what the function raises.
        """
        key = _key_of(request)
        if not key:
            raise problems.no_key()

        def both() -> T:
            device = _allowed(self.keys.visitor(key), DEVICE).device
            assert device is not None
            self._seen[device.id] = time.time()
            return work(device)

        return await self.call(both)

    async def told(self, request: Request, kind: type[B], work: Callable[[FleetDevice, B], T]) -> T:
        """The same, of a device and what it sends; raises ApiError 400, 408 and 413, too."""
        data = await self.data(request, SMALL) if _key_of(request) else b""
        return await self.device(request, lambda device: work(device, parsed(data, kind)))

    async def body(self, request: Request, kind: type[B], most: int = SMALL) -> B:
        """The body of a request; raises ApiError 400, 408 or 413."""
        return parsed(await self.data(request, most), kind)

    async def data(self, request: Request, most: int) -> bytes:
        """The bytes of a body; raises ApiError 408 or 413."""
        try:
            return await asyncio.wait_for(_read(request, most), _BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="too_slow") from None
        except ClientDisconnect:
            raise ApiError(499, "the client went away", code="client_left") from None

    def overview(self) -> dict[str, object]:
        """What an operator wants to know."""
        devices, seen, current = self.store.count_devices(time.time() - 3 * self.poll)
        rollouts = [self.controller.describe(one) for one in self.store.rollouts()]
        return {
            "devices": devices,
            "seen": seen,
            "current": current,
            "poll_seconds": self.poll,
            "running": sum(1 for one in rollouts if one["state"] == RUNNING),
            "rollouts": rollouts,
            "artefacts": self.store.artefacts(20),
            "events": self.store.events(),
        }


def parsed(data: bytes, kind: type[B]) -> B:
    """What a body says; raises ApiError 400."""
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise problems.bad(f"{place}: {first['msg']}"[:500]) from None


def _key_of(request: Request) -> str:
    """The text of the key that a request brings; "" for none."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip()[:200] if kind.lower() == "bearer" else ""


def _allowed(visitor: Visitor | None, role: str) -> Visitor:
    """Who asks, where that role may; raises ApiError 401 or 403."""
    if visitor is None:
        raise problems.no_key()
    if visitor.role not in _ALLOWED[role]:
        raise problems.wrong_role(visitor.role)
    return visitor


async def _read(request: Request, most: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise ApiError(413, f"the body is larger than {most} bytes", code="too_large")
    return bytes(data)
