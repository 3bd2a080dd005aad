"""One loaded artefact.

Its main engine, its helpers for scoring and embeddings, and the queue in front.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import aiohttp

from kanna.serving import engines
from kanna.serving.admission import Gate
from kanna.serving.engines.base import GENERATE, EngineConfig, Footprint
from kanna.serving.metrics import Metrics
from kanna.serving.problems import ApiError
from kanna.serving.process import EngineProcess
from kanna.serving.settings import Limits


class Backend:
    """`enter` before a request goes to the engine and `leave` after it.

    Nothing stops it in between.
    """

    def __init__(self, config: EngineConfig, limits: Limits, metrics: Metrics) -> None:
        self.engine = engines.get(config.engine)
        self.config, self.limits, self.metrics = config, limits, metrics
        self.footprint: Footprint = self.engine.footprint(config)
        # A few more than there are slots are let through: the engine takes the next one without
        # asking back.
        self.gate = Gate(2 * config.slots, limits.queue, limits.queue_time)
        self.processes: dict[str, EngineProcess] = {GENERATE: self._process(config)}
        self.in_use = 0
        self.last_used = time.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()

    def _process(self, config: EngineConfig) -> EngineProcess:
        return EngineProcess(
            config, on_death=lambda _: self.metrics.restarted(config.name, config.role)
        )

    @property
    def main(self) -> EngineProcess:
        return self.processes[GENERATE]

    @property
    def context(self) -> int:
        return self.config.context

    def needs(self, role: str) -> int:
        """Bytes that a helper of that role would take on top."""
        if role in self.processes or role not in self.engine.apart:
            return 0
        return self.engine.footprint(replace(self.config, role=role)).total

    @property
    def bytes(self) -> int:
        helpers = [r for r in self.processes if r != GENERATE]
        return self.footprint.total + sum(
            self.engine.footprint(replace(self.config, role=r)).total for r in helpers
        )

    async def helper(self, role: str, session: aiohttp.ClientSession) -> EngineProcess:
        """The process for a role beside generating, started when first asked for."""
        if role not in self.engine.roles:
            raise ApiError(
                501,
                f"{self.config.name!r} runs in {self.engine.name}, which cannot do this ({role})",
                "not_supported_error",
                "not_supported",
            )
        if role not in self.engine.apart:
            return self.main
        if role not in self.processes:
            process = self._process(replace(self.config, role=role))
            self.processes[role] = process
            process.supervise(session)
        process = self.processes[role]
        await process.wait_ready(self.limits.load_time)
        return process

    async def enter(self) -> None:
        """Wait for a turn; raises ApiError 503 when the queue is full."""
        self.hold()
        try:
            await self.gate.enter()
        except BaseException:
            self.release()
            raise

    def leave(self) -> None:
        self.gate.leave()
        self.release()

    def hold(self) -> None:
        """Keep it loaded until `release`."""
        self.in_use += 1
        self._idle.clear()

    def release(self) -> None:
        self.in_use -= 1
        self.last_used = time.monotonic()
        if self.in_use == 0:
            self._idle.set()

    async def drained(self) -> None:
        await self._idle.wait()

    async def stop(self) -> None:
        for process in self.processes.values():
            await process.stop()

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
