"""One supervised engine process: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from kanna.errors import ChangedError
from kanna.formats.file_states import FileStates
from kanna.libllama.devices import LOST
from kanna.serving import engines
from kanna.serving.engines.base import EMBED, GENERATE, RANK, SCORE, EngineConfig
from kanna.serving.launch import EngineRun
from kanna.serving.problems import ApiError, engine_down
from kanna.serving.watchdog import Watchdog, Watched, until_stalled

LOG = logging.getLogger("kanna.serve")
BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a restart, by how many runs in a row never became ready."""
MAX_FAILED_STARTS = 3
"""Runs in a row that never became ready before the engine counts as broken."""
_SHORT_LIFE = 5.0
"""Seconds from its start within which an engine that ended did so at once."""
_WHEN_LOST = (
    "look at the driver's log: the device was lost, has no memory left, or its driver failed; "
    "kanna serve --llama-server never computes on the CPU"
)
_HEALTH_TIME = 20.0
_MEASURED = {GENERATE: "/v1/completions", EMBED: "/v1/embeddings", RANK: "/v1/rerank"}
"""The route by which the speed of an engine is measured, by its role."""
LOAD_TIMEOUT = 600.0


class EngineProcess:
    """The engine of one artefact in one role.

    Call `spawn` from the main thread only: on Linux a child dies with the thread that made it.

    Args:
        config: What it runs.
        look: Before each start: checks the artefact, and says what to start and what its files
            were before that.
        on_death: Called when it has ended.
        is_idle: Whether it has nothing to do.

    Attributes:
        headers: Of every request to it, with its key.
        raw_headers: The same as lines of HTTP.
        state: `new`, `starting`, `ready`, `restarting`, `stopped` or `failed`.
        port: Of the loopback interface.
        announced: The message it sent when it was ready.
        template_capabilities: What its chat template can do, once somebody asked.
        restarts: How often it was started again.
        reason: Why it ended last.
    """

    def __init__(
        self,
        config: EngineConfig,
        look: Callable[[EngineConfig], tuple[EngineConfig, FileStates]],
        *,
        on_death: Callable[[], None] = lambda: None,
        is_idle: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config = replace(config, key=secrets.token_urlsafe(32))
        self.headers = {
            "authorization": f"Bearer {self.config.key}",
            "content-type": "application/json",
        }
        lines = {"host": "127.0.0.1", **self.headers}
        self.raw_headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
        self.state = "new"
        self.port = 0
        self.announced: dict[str, Any] = {}
        self.template_capabilities: dict[str, Any] | None = None
        self.restarts = 0
        self.reason = ""
        self._look, self._on_death, self._is_idle = look, on_death, is_idle
        self._states = FileStates(())
        # Helpers that score have the routes they need alone.
        self._probe = "/health" if config.role == SCORE else engines.get(config.engine).probe
        self._run: EngineRun | None = None
        self._settled = asyncio.Event()  # it is ready, or will not be
        self._supervisor: asyncio.Task[None] | None = None
        self._best_limit: float | None = None  # of a watchdog, from earlier lives

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id, while there is a process."""
        if self._run is None or self.state in {"stopped", "failed"}:
            return None
        return self._run.process.pid

    def spawn(self, launched: subprocess.Popen[bytes] | None = None) -> None:
        """Start the process, or go on with one that waits for its orders; needs no event loop."""
        self.state = "starting" if self.restarts == 0 else "restarting"
        self.config, self._states = self._look(self.config)
        self._run = EngineRun(self.config, launched)

    def supervise(self, session: aiohttp.ClientSession) -> None:
        """Watch the process from now on."""
        if self._run is None:
            self.spawn()
        self._supervisor = asyncio.create_task(self._supervise(session))

    async def wait_ready(self, timeout: float = LOAD_TIMEOUT) -> None:
        """Return when requests may come.

        Raises:
            ApiError: 503: it is not ready in time, or does not start.
        """
        if self._settled.is_set() and self.state == "ready":
            return
        try:
            await asyncio.wait_for(self._settled.wait(), timeout)
        except asyncio.TimeoutError:
            raise engine_down(self.config.name, "it is not ready yet") from None
        if self.state != "ready":
            raise ApiError(
                503,
                f"the engine of {self.config.name!r} does not start: "
                + _without_folders(self.reason, self.config),
                "server_error",
                "engine_failed",
                retry_after=30,
            )

    async def stop(self) -> None:
        """End the process for good."""
        self.state = "stopped"
        if self._supervisor:
            self._supervisor.cancel()
        run = self._run
        if run is None:
            return
        run.process.kill()  # nothing in it needs an orderly end
        with suppress(Exception):
            await asyncio.wrap_future(run.ended)
        self._settled.set()

    def kill(self) -> None:
        """End the process without an event loop, for the last moments of the gateway."""
        self.state = "stopped"
        if self._run:
            self._run.process.kill()

    async def _supervise(self, session: aiohttp.ClientSession) -> None:
        failed_starts, warned = 0, ""
        while True:
            run = self._run
            assert run
            started = time.monotonic()
            try:
                await self._until_ready(session, run)
                failed_starts = 0
                self.reason = await self._until_end(session, run)
                if self.reason != warned or time.monotonic() - started > _SHORT_LIFE:
                    LOG.warning(
                        "The engine of %s is started again: %s", self.config.name, self.reason
                    )
                warned = self.reason
            except (RuntimeError, asyncio.TimeoutError, ChangedError) as error:
                failed_starts += 1
                known = error.found if isinstance(error, ChangedError) else str(error)
                reason = known or "it did not load in time"
                self.reason = "; ".join([reason, *run.error_lines])
                # Alike but for a library's lines, of which another one may come last.
                if reason != warned:
                    name = self.config.name
                    LOG.warning("The engine of %s does not start: %s", name, self.reason)
                warned = reason
                run.process.kill()
            self._begin_restart()
            if failed_starts >= MAX_FAILED_STARTS:
                self.state = "failed"
                self._settled.set()
                return
            self.restarts += 1
            self._on_death()
            delay = BACKOFF[min(failed_starts, len(BACKOFF) - 1)]
            if failed_starts == 0 and time.monotonic() - started < _SHORT_LIFE:
                delay = 0.5  # it came up and died at once: no busy loop
            await asyncio.sleep(delay)
            self.spawn()

    async def _until_ready(self, session: aiohttp.ClientSession, run: EngineRun) -> None:
        """Return when it answers.

        Raises RuntimeError when it ends before, TimeoutError, and ChangedError when it may have
        read other files than those that were checked.
        """
        announced = await asyncio.wait_for(_announcement(run), LOAD_TIMEOUT)
        self.port = int(announced["port"])
        if not announced.get("listening", True):
            await asyncio.wait_for(self._until_healthy(session, run), LOAD_TIMEOUT)
        await asyncio.to_thread(self._states.refuse_changes)
        self.announced = announced
        self.state = "ready"
        self._settled.set()

    async def _until_healthy(self, session: aiohttp.ClientSession, run: EngineRun) -> None:
        while not run.ended.done():
            if await self._is_healthy(session):
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"it ended with code {run.process.returncode}")

    async def _is_healthy(self, session: aiohttp.ClientSession) -> bool:
        with suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            timeout = aiohttp.ClientTimeout(total=_HEALTH_TIME)
            async with session.get(
                f"{self.url}/health", headers=self.headers, timeout=timeout
            ) as response:
                return response.status == 200
        return False

    async def _until_end(self, session: aiohttp.ClientSession, run: EngineRun) -> str:
        """Return when the process has ended, with the reason; one that hangs is killed."""
        ended = asyncio.ensure_future(asyncio.wrap_future(run.ended))
        watchdog = Watchdog(self._watched(run), session, self._best_limit)
        watching = asyncio.ensure_future(watchdog.watch())
        try:
            await asyncio.wait([ended, watching], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return _end_of(run)
            reason = watching.result()
            self._begin_restart()  # before it is gone: nobody is sent to it any more
            run.process.kill()
            await ended
            return reason
        finally:
            watching.cancel()
            self._best_limit = watchdog.best

    def _watched(self, run: EngineRun) -> Watched:
        return Watched(
            url=self.url,
            headers=self.headers,
            pid=run.process.pid,
            probe=self._probe,
            measured=_MEASURED.get(self.config.role, ""),
            batch=self.config.context if self.config.role in (EMBED, RANK) else 0,
            memory=self.config.memory_limit or 0,
            idle=self._is_idle,
        )

    def _begin_restart(self) -> None:
        self._settled.clear()
        self.template_capabilities = None
        self.state = "restarting"


_FOLDERS = re.compile(r"(?<![^\s'\"(=])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'\":]+[/\\])*(?=[^/\\\s'\":])")


def _without_folders(text: str, config: EngineConfig) -> str:
    """A text with the names of files alone: where they lie is nobody's business who asks."""
    for path in filter(None, (config.path, config.draft, *config.adapters)):
        text = text.replace(path, Path(path).name).replace(f"{Path(path).parent}{os.sep}", "")
    return _FOLDERS.sub("", text)


def _end_of(run: EngineRun) -> str:
    """Why a process that served has ended, and of a lost device what to do."""
    known = [f"it ended with code {run.process.returncode}", *run.error_lines]
    if LOST.search(known[-1]):
        known.append(_WHEN_LOST)
    return "; ".join(known)


async def _announcement(run: EngineRun) -> dict[str, Any]:
    """What a process says when it has loaded; raises RuntimeError when it ends or stands still."""
    ready = asyncio.ensure_future(asyncio.wrap_future(run.ready))
    stalled = asyncio.ensure_future(until_stalled(run.process.pid))
    try:
        await asyncio.wait([ready, stalled], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return ready.result()
        raise RuntimeError(stalled.result())
    finally:
        stalled.cancel()
