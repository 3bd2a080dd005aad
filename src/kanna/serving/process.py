"""One supervised engine process: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp

from kanna.serving.engines.base import EngineConfig
from kanna.serving.launch import launch
from kanna.serving.problems import ApiError, engine_down

BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a restart, by how many runs in a row never became ready."""
GIVE_UP = 3
"""Runs in a row that never became ready before the engine counts as broken."""
PROBE_EVERY, PROBE_TIMEOUT, PROBES = 15.0, 20.0, 3
LOAD_TIMEOUT = 600.0


class Run:
    """One life of the process.

    Its futures are of threads, so that it may start before there is an event loop.
    """

    def __init__(
        self, config: EngineConfig, launched: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.ready: Future[dict[str, Any]] = Future()
        self.ended: Future[int] = Future()
        self.tail: deque[str] = deque(maxlen=30)
        self.process = launched or launch(config.engine)
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(config.to_json().encode() + b"\n")
            self.process.stdin.flush()
        for target in (self._read_stdout, self._read_stderr):
            threading.Thread(target=target, daemon=True).start()

    def _read_stdout(self) -> None:
        assert self.process.stdout
        with suppress(ValueError, OSError):
            line = self.process.stdout.readline()
            if line.startswith(b"{"):
                self.ready.set_result(json.loads(line))
            while self.process.stdout.read(4096):
                pass
        code = self.process.wait()
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(f"it ended with code {code}"))
        self.ended.set_result(code)

    def _read_stderr(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.tail.append(line.decode("utf-8", "replace").rstrip())


class EngineProcess:
    """The engine of one artefact in one role.

    `spawn` from the main thread only: on Linux a child dies with it.
    """

    def __init__(
        self, config: EngineConfig, *, on_death: Callable[[EngineProcess], None] | None = None
    ) -> None:
        self.config = replace(config, key=secrets.token_urlsafe(32))
        self.headers = {
            "authorization": f"Bearer {self.config.key}",
            "content-type": "application/json",
        }
        self.state = "new"
        self.port = 0
        lines = {"host": "127.0.0.1", **self.headers}
        self.head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
        self.facts: dict[str, Any] = {}
        self.restarts = 0
        self.reason = ""
        self.on_death = on_death
        self._run: Run | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return (
            self._run.process.pid if self._run and self.state not in {"stopped", "failed"} else None
        )

    def spawn(self, launched: subprocess.Popen[bytes] | None = None) -> None:
        """Start the process, or go on with one that waits for its orders; needs no event loop."""
        self.state = "starting" if self.restarts == 0 else "restarting"
        self._run = Run(self.config, launched)

    def supervise(self, session: aiohttp.ClientSession) -> None:
        """Watch the process from now on."""
        if self._run is None:
            self.spawn()
        self._keeper = asyncio.create_task(self._keep(session))

    async def wait_ready(self, timeout: float = LOAD_TIMEOUT) -> None:
        """Return when requests may come; raises ApiError when that is not to be."""
        if self._up.is_set() and self.state == "ready":
            return
        try:
            await asyncio.wait_for(self._up.wait(), timeout)
        except asyncio.TimeoutError:
            raise engine_down(self.config.name, "it is not ready yet") from None
        if self.state != "ready":
            raise ApiError(
                503,
                f"the engine of {self.config.name!r} does not start: {self.reason}",
                "server_error",
                "engine_failed",
                retry_after=30,
            )

    async def stop(self) -> None:
        self.state = "stopped"
        if self._keeper:
            self._keeper.cancel()
        run = self._run
        if run is None:
            return
        run.process.kill()  # nothing in it needs an orderly end
        with suppress(Exception):
            await asyncio.wrap_future(run.ended)
        self._up.set()

    def kill(self) -> None:
        """End the process without an event loop, for the last moments of the gateway."""
        self.state = "stopped"
        if self._run:
            self._run.process.kill()

    async def _keep(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        while True:
            run = self._run
            assert run
            began = time.monotonic()
            try:
                facts = await asyncio.wait_for(asyncio.wrap_future(run.ready), LOAD_TIMEOUT)
                self.port = int(facts["port"])
                if not facts.get("listening", True):
                    await asyncio.wait_for(self._answers(session, run), LOAD_TIMEOUT)
                self.facts, failures = facts, 0
                self.state = "ready"
                self._up.set()
                await self._until_end(session, run)
                self.reason = f"it ended with code {run.process.returncode}"
            except (RuntimeError, asyncio.TimeoutError) as error:
                failures += 1
                self.reason = "; ".join(
                    [str(error) or "it did not load in time", *self._complaint(run)]
                )
                run.process.kill()
            self._up.clear()
            if failures >= GIVE_UP:
                self.state = "failed"
                self._up.set()
                return
            self.state = "restarting"
            self.restarts += 1
            if self.on_death:
                self.on_death(self)
            wait = BACKOFF[min(failures, len(BACKOFF) - 1)]
            if failures == 0 and time.monotonic() - began < 5:
                wait = 0.5  # it came up and died at once: no busy loop
            await asyncio.sleep(wait)
            self.spawn()

    @staticmethod
    def _complaint(run: Run) -> list[str]:
        lines = [line for line in run.tail if line.strip()]
        telling = [line for line in lines if "error" in line.lower() or line.startswith("kanna:")]
        return (telling or lines)[-1:]

    async def _answers(self, session: aiohttp.ClientSession, run: Run) -> None:
        """Until `/health` says yes."""
        while not run.ended.done():
            if await self._healthy(session):
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"it ended with code {run.process.returncode}")

    async def _healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
            async with session.get(
                f"{self.url}/health", headers=self.headers, timeout=timeout
            ) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            return False

    async def _until_end(self, session: aiohttp.ClientSession, run: Run) -> None:
        """Until the process has ended; one that no longer answers is killed."""
        ended = asyncio.ensure_future(asyncio.wrap_future(run.ended))
        silent = 0
        while True:
            done, _ = await asyncio.wait([ended], timeout=PROBE_EVERY)
            if done:
                return
            silent = 0 if await self._healthy(session) else silent + 1
            if silent >= PROBES:
                run.process.kill()
