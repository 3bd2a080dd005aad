"""Several files on their way to or from a registry at once; an error of one ends all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Generic, TypeVar

from kanna._util.progress import Progress, Silent

AT_ONCE = 3
"""Each file is hashed on one core, at both ends."""
_PATIENCE = 2.0
"""Seconds for those that are ended: one may wait for a registry that is silent."""

T = TypeVar("T")


class Transfers(Generic[T]):
    """Transfers that begin before anybody waits for them, each once."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[T], Callable[[Progress], T]] | None] = SimpleQueue()
        self._results: dict[str, Future[T]] = {}
        self._threads: list[Thread] = []
        self._counter = _Counter()

    def __enter__(self) -> Transfers[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._counter.stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def begin(self, key: str, transfer: Callable[[Progress], T]) -> None:
        """Have a file transferred, unless one of its key is on its way.

        Args:
            key: Its digest.
            transfer: Does it; is given whom to tell of bytes.
        """
        if key in self._results:
            return
        future = self._results[key] = Future[T]()
        self._jobs.put((future, transfer))
        if len(self._threads) < AT_ONCE:
            # A daemon, so that Ctrl-C does not wait for a registry that is silent.
            self._threads.append(Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def show(self, progress: Progress) -> None:
        """Report from now on, and what was transferred before.

        Args:
            progress: Told of bytes, in a stage that was started.
        """
        self._counter.show(progress)

    def wait(self, key: str) -> T:
        """The result of a transfer that was begun; raises what it, or another one, raised."""
        future = self._results[key]
        while not future.done():  # a wait without a limit would not see Ctrl-C on Windows
            ended, _ = wait(self._results.values(), 0.2, FIRST_EXCEPTION)
            for other in ended:
                other.result()
        return future.result()

    def _work(self) -> None:
        """Do one transfer after another, until there will be none."""
        while (job := self._jobs.get()) is not None:
            future, transfer = job
            try:
                future.set_result(transfer(self._counter))
            except BaseException as error:
                future.set_exception(error)


class _TransfersEndedError(Exception):
    """Nobody waits any more."""


class _Counter(Silent):
    """Bytes that were transferred, told to a progress as soon as there is one."""

    def __init__(self) -> None:
        self.stopped = False
        self._progress: Progress | None = None
        self._untold, self._lock = 0, Lock()

    def show(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress
            progress.advance(self._untold)

    def advance(self, amount: int, detail: str = "") -> None:
        """Count bytes; raises where nobody waits, which ends the transfer."""
        if self.stopped:
            raise _TransfersEndedError
        with self._lock:
            if self._progress is None:
                self._untold += amount
            else:
                self._progress.advance(amount, detail)
