"""Running jobs: one at a time, each in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kanna._util.interpreter import module_command
from kanna._util.processes import environment
from kanna.serving.studio.jobs import (
    CANCELLED,
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    JobStore,
    StudioJob,
    read_object,
)

_PATIENCE = 12.0
"""Seconds that an interrupted process may take to clean up before it is killed."""
_WORKER = "kanna.serving.studio.worker"


class JobRunner:
    """Takes one queued job after another.

    Args:
        store: Its jobs.
        on_done: Called with a job that succeeded.
    """

    def __init__(self, store: JobStore, on_done: Callable[[StudioJob], None]) -> None:
        self.store, self.on_done = store, on_done
        self._wake = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._job: StudioJob | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._loop = asyncio.create_task(self._take_jobs())

    def wake(self) -> None:
        """Look for a queued job."""
        self._wake.set()

    async def stop(self) -> None:
        """Interrupt what runs; it is queued again when the studio starts the next time."""
        if self._loop:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop

    async def cancel(self, job: StudioJob) -> None:
        """End a job, or take it out of the queue."""
        if not job.active:
            return
        self.store.settle(job, CANCELLED)
        if job is self._job and self._process:
            await self._end(self._process)

    def queue(self) -> list[StudioJob]:
        """Jobs that wait, in the order they are taken."""
        return [job for job in self.store.jobs.values() if job.state == QUEUED]

    async def _take_jobs(self) -> None:
        while True:
            self._wake.clear()
            if waiting := self.queue():
                # What somebody waits for to chat with comes first.
                await self._run(min(waiting, key=lambda job: not job.original_of))
            else:
                await self._wake.wait()

    async def _run(self, job: StudioJob) -> None:
        folder = self.store.folder(job)
        self.store.forget_outcome(job)
        job.state, job.started, job.attempts = RUNNING, time.time(), job.attempts + 1
        self.store.save(job)
        self._job = job
        try:
            process = self._process = await _started(folder)
            if job.state != RUNNING:  # cancelled while it started
                await self._end(process)
            code = await process.wait()
        except asyncio.CancelledError:
            if self._process:
                await self._end(self._process)
            if job.state == RUNNING:  # an orderly end counts as no attempt
                job.state, job.attempts = QUEUED, job.attempts - 1
                self.store.save(job)
            raise
        finally:
            self._job = self._process = None
        if job.state == RUNNING:  # and not cancelled
            self._settle(job, folder, code)

    def _settle(self, job: StudioJob, folder: Path, code: int) -> None:
        if code == 0 and (folder / "result.json").exists():
            self.store.settle(job, DONE)
            self.on_done(job)
            return
        error = read_object(folder / "error.json")
        self.store.settle(job, FAILED, error or _ended(code))

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Interrupt a process; kill it and its children when that takes too long."""
        import psutil

        if process.returncode is not None:
            return
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            assert process.stdin
            process.stdin.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.wait()), _PATIENCE)
            for child in children:
                with suppress(psutil.Error):
                    child.kill()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _started(folder: Path) -> asyncio.subprocess.Process:
    """The process of the job in a folder, which logs there."""
    with (folder / "log.txt").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *module_command(_WORKER, str(folder)),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment(),
            # Ctrl-C in the studio's terminal is for the studio: it interrupts the job itself.
            start_new_session=True,
        )


def _ended(code: int) -> dict[str, str]:
    """What to say of a process that left no message."""
    if code in (-9, 137):
        return {
            "found": "the system ended the job, most likely because memory ran out",
            "todo": "close other programs, or take a smaller model",
        }
    return {"found": f"the job ended with code {code}", "todo": "see its log"}
