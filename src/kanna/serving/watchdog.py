"""Whether an engine makes progress, asked of the thread that computes.

An engine answers its probe between two batches of prompt tokens, or between two tokens. How long
that may take is measured when it starts: a slow device with a large model is not a hung one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kanna._util.units import format_size

PROBE_PROMPT = list(range(10, 42))
"""Token ids that every vocabulary has, read once to see how long a prompt takes."""
_BATCH = 512
"""Prompt tokens that an engine reads at most between two answers to its probe."""
_LEAST, _MOST = 8.0, 600.0
"""Seconds without a sign of progress that any engine is given, and that none is."""
_PATIENCE = 4.0
"""How many times the time of its largest batch an engine may take for one."""
_UNMEASURED = 120.0
"""Seconds it may take before it was measured."""
_STARTED_AGAIN = 20.0
"""Seconds more that an engine has until it is measured, which was in an earlier life."""
_SLOWED = 2.0
"""How many times its least limit an engine gets, where other work slows it down."""
_STALLED_START = 20.0
"""Seconds in which an engine that starts has to compute or read something."""
_INTERVAL = 1.0
"""Seconds between two looks at it."""
_BUSY = 0.2
"""Share of one processor from which on an engine counts as computing."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """What a watchdog has to know of an engine's process.

    Attributes:
        url: Where it answers.
        headers: Of every request to it.
        pid: Of the process.
        probe: Answers only while the thread that computes moves.
        measured: The route that reads a prompt, by which its speed is measured; empty: none.
        batch: Prompt tokens that it reads at a time; 0: the usual.
        memory: Bytes it may take; 0: any.
        idle: Whether nobody waits for it.
    """

    url: str
    headers: dict[str, str]
    pid: int
    probe: str
    measured: str
    batch: int
    memory: int
    idle: Callable[[], bool]


class Watchdog:
    """Watches one life of an engine's process.

    Args:
        watched: The process.
        session: For requests to it.
        best: The `best` of an earlier life; None: this is the first.

    Attributes:
        limit: Seconds without a sign of progress after which it counts as hung.
        best: The least limit that was measured.
    """

    def __init__(
        self, watched: Watched, session: aiohttp.ClientSession, best: float | None = None
    ) -> None:
        self.best = best
        self.limit = min(_UNMEASURED, best + _STARTED_AGAIN) if best else _UNMEASURED
        self._watched, self._session = watched, session
        self._moved = time.monotonic()
        self._busy_since: float | None = None
        self._processor_time, self._looked = 0.0, time.monotonic()

    async def watch(self) -> str:
        """Return when it hangs or takes too much memory, with the reason."""
        work = (self._watch_progress(), self._watch_process())
        running = [asyncio.ensure_future(part) for part in work]
        measuring = asyncio.ensure_future(self._measure())
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (*running, measuring):
                task.cancel()

    async def _measure(self) -> None:
        """Set the limit by the time that a short prompt takes."""
        if not self._watched.measured:
            return
        body = {"model": "m", "prompt": PROBE_PROMPT, "max_tokens": 1, "cache_prompt": False}
        # The same text as the prompt of embeddings, and as what is ranked.
        body |= {"input": PROBE_PROMPT, "query": "a", "documents": [PROBE_PROMPT]}
        started = time.monotonic()
        with suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            timeout = aiohttp.ClientTimeout(total=_UNMEASURED)
            async with self._session.post(
                self._watched.url + self._watched.measured,
                data=json.dumps(body).encode(),
                headers=self._watched.headers,
                timeout=timeout,
            ) as response:
                await response.read()
            batch_time = (time.monotonic() - started) * (self._watched.batch or _BATCH)
            batch_time /= len(PROBE_PROMPT)
            measured = min(_MOST, _LEAST + _PATIENCE * batch_time)
            self.best = min(measured, self.best or measured)
            self.limit = min(measured, _SLOWED * self.best)

    async def _watch_progress(self) -> str:
        while True:
            left = self._moved + self.limit - time.monotonic()
            problem = await self._probe(max(left, 1.0))
            if problem:
                return problem
            if time.monotonic() - self._moved > self.limit:
                return f"it has made no progress for {time.monotonic() - self._moved:.0f} seconds"
            await asyncio.sleep(_INTERVAL)

    async def _probe(self, timeout: float) -> str:
        """Ask for a sign of progress; a thread that says itself why it stands still is believed."""
        with suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
            async with self._session.get(
                f"{self._watched.url}{self._watched.probe}",
                headers=self._watched.headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                text = await response.read()
            status = json.loads(text) if self._watched.probe == "/health" else {}
            if response.status == 503 and (reason := status.get("reason")):
                return str(reason)
            self._moved = max(
                self._moved, time.monotonic() - float(status.get("seconds_computing") or 0)
            )
        return ""

    async def _watch_process(self) -> str:
        while True:
            await asyncio.sleep(_INTERVAL)
            taken = _memory_of(self._watched.pid)
            if 0 < self._watched.memory < taken:
                return (
                    f"it took {format_size(taken)} of memory, "
                    f"{format_size(self._watched.memory)} are allowed"
                )
            if (seconds := self._seconds_busy()) > self.limit:
                return f"it has computed for {seconds:.0f} seconds, and nobody waits for an answer"

    def _seconds_busy(self) -> float:
        """For how long it has computed although nobody asked it to."""
        now, used = time.monotonic(), _processor_time_of(self._watched.pid)
        share = (used - self._processor_time) / max(now - self._looked, 0.001)
        busy = share > _BUSY and self._watched.idle()
        self._processor_time, self._looked = used, now
        if not busy:
            self._busy_since = None
            return 0.0
        self._busy_since = self._busy_since or now
        return now - self._busy_since


async def until_stalled(pid: int) -> str:
    """Return when a process that starts has stood still for too long, with the reason."""
    moved, last = time.monotonic(), (0.0, 0)
    while True:
        work = _processor_time_of(pid), _bytes_read_by(pid)
        if work[1] > last[1] or work[0] > last[0] + 0.01:
            moved, last = time.monotonic(), work
        if (seconds := time.monotonic() - moved) > _STALLED_START:
            return f"it has not moved for {seconds:.0f} seconds while it started"
        await asyncio.sleep(_INTERVAL)


def _bytes_read_by(pid: int) -> int:
    """Bytes that a process got from disks, also through maps; 0 where nobody counts them."""
    import psutil

    with suppress(psutil.Error, AttributeError, OSError):
        return int(psutil.Process(pid).io_counters().read_bytes)
    return 0


def _memory_of(pid: int) -> int:
    """Bytes of a process's own memory: without the file of the weights, where it is mapped."""
    if sys.platform == "linux":
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) << 10
        return 0
    import psutil

    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _processor_time_of(pid: int) -> float:
    """Seconds of processors that a process has used."""
    import psutil

    with suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
