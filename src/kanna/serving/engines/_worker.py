"""The thread that owns a model: jobs go in and tokens come out, between it and an event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from kanna.serving.engines._jobs import AdapterScales, GeneratedToken, GenerationJob, JobBatch
from kanna.serving.engines._prompt_scorer import PromptScorer

STALL_TIME = 600.0
"""Seconds that one step may take on any device; the gateway measures what this one needs."""
_LAST_WORDS = 1.0
"""Seconds in which the errors of the last jobs go out."""


class JobError(Exception):
    """A job could not go on, and nothing is wrong with its request."""


class Worker:
    """The thread that owns a model.

    When it dies, its jobs end with the reason and so does the process: the gateway starts another
    one.

    Args:
        make: Loads the model in that thread; what it raises is raised here.
    """

    def __init__(self, make: Callable[[], JobBatch]) -> None:
        self._tasks: queue.SimpleQueue[Callable[[JobBatch], None]] = queue.SimpleQueue()
        self._loaded: Future[JobBatch] = Future()
        self._failure = ""
        self._busy_since: float | None = None
        self._jobs: set[GenerationJob] = set()
        self._scores: set[Future[list[dict[str, Any]]]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self._run, args=(make,), daemon=True).start()
        batch = self._loaded.result()
        self.vocab_size, self.context = batch.vocab_size, batch.context

    @property
    def problem(self) -> str:
        """Why it computes nothing; empty while it does, or waits for jobs."""
        seconds = self.seconds_computing
        if not self._failure and seconds > STALL_TIME:
            return f"the thread that computes has not moved for {seconds:.0f} seconds"
        return self._failure

    @property
    def seconds_computing(self) -> float:
        """For how long the present step has lasted; 0 while it waits for jobs."""
        busy_since = self._busy_since
        return 0.0 if busy_since is None else time.monotonic() - busy_since

    def submit(self, job: GenerationJob) -> None:
        """Begin a job; its tokens come in `job.output`. Raises JobError when it died."""
        self._check_alive()
        self._loop = asyncio.get_running_loop()
        self._jobs.add(job)

        def begin(batch: JobBatch) -> None:
            try:
                batch.add(job)
            except Exception as error:
                self._deliver([(job, error)])

        self._tasks.put(begin)

    def cancel(self, job: GenerationJob) -> None:
        """End a job early."""
        self._jobs.discard(job)
        self._tasks.put(lambda batch: batch.remove(job))

    async def score(
        self,
        ids: Sequence[int],
        text_of: Callable[[int], str],
        top: int,
        adapters: AdapterScales = (),
    ) -> list[dict[str, Any]]:
        """Log-probabilities of a prompt's tokens, as `/score` answers them."""
        self._check_alive()
        self._loop = asyncio.get_running_loop()
        scores: Future[list[dict[str, Any]]] = Future()
        self._scores.add(scores)

        def compute(batch: JobBatch) -> None:
            if not scores.set_running_or_notify_cancel():
                return  # the client left before its turn
            try:
                scorer = PromptScorer(ids, text_of, top)
                for rows in batch.score(ids, adapters):
                    self._busy_since = time.monotonic()
                    scorer.add(rows)
                scores.set_result(scorer.tokens)
            except Exception as error:
                scores.set_exception(_job_error(error))

        self._tasks.put(compute)
        try:
            return await asyncio.wrap_future(scores)
        finally:
            self._scores.discard(scores)

    def _check_alive(self) -> None:
        if self._failure:
            raise JobError(self._failure)

    def _run(self, make: Callable[[], JobBatch]) -> None:
        try:
            batch = make()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(batch)
        try:
            self._work(batch)
        except BaseException as error:
            self._die(error)

    def _work(self, batch: JobBatch) -> None:
        while True:
            while not self._tasks.empty() or not batch.pending:
                if not batch.pending:
                    self._busy_since = None
                task = self._tasks.get()
                self._busy_since = time.monotonic()
                task(batch)
            self._busy_since = time.monotonic()
            self._deliver(batch.step())

    def _deliver(self, tokens: list[tuple[GenerationJob, GeneratedToken | Exception]]) -> None:
        if tokens and self._loop:
            self._loop.call_soon_threadsafe(self._put, tokens)

    def _put(self, tokens: list[tuple[GenerationJob, GeneratedToken | Exception]]) -> None:
        for job, token in tokens:
            if isinstance(token, Exception) or token.finish_reason:
                self._jobs.discard(job)
            job.output.put_nowait(_job_error(token) if isinstance(token, Exception) else token)

    def _fail_all(self) -> None:
        failure = JobError(self._failure)
        self._put([(job, failure) for job in self._jobs])
        for scores in self._scores:
            with suppress(InvalidStateError):
                scores.set_exception(failure)

    def _die(self, error: BaseException) -> None:
        """End every job with the reason, and then the process."""
        traceback.print_exception(error)
        self._failure = f"the engine stopped: {type(error).__name__}: {error}"
        if self._loop:
            self._loop.call_soon_threadsafe(self._fail_all)
        time.sleep(_LAST_WORDS)
        os._exit(1)


def _job_error(error: Exception) -> JobError:
    """The error of a job, told apart from a request that is wrong."""
    return error if isinstance(error, JobError) else JobError(f"{type(error).__name__}: {error}")
