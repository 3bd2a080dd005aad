"""Writes usage and the audit log in a thread of its own, many requests per commit."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from kanna.serving.guard.store import Store, Use, today

_Job = tuple["Use | None", "dict[str, Any] | None", "asyncio.Future[None] | None"]


class Ledger:
    """`write` resolves when the usage is committed: an answer ends only after it is counted.

    A full disk stops no request: what could not be written is kept and tried again with the next.
    """

    def __init__(self, store: Store, audit: Path | None) -> None:
        self._store, self._audit_path = store, audit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._unsaved: list[Use] = []
        self.failures = 0
        self._audit: IO[str] | None = None
        if audit:
            audit.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._audit = open(descriptor, "a", encoding="utf-8")  # noqa: PTH123 SIM115
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, use: Use | None, entry: dict[str, Any] | None) -> asyncio.Future[None]:
        """Count `use` and log `entry`; the future is done when both are written."""
        done = asyncio.get_running_loop().create_future()
        self._jobs.put((use, entry, done))
        return done

    def note(self, entry: dict[str, Any]) -> None:
        """Log `entry` some time soon."""
        self._jobs.put((None, entry, None))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join(10)
        if self._audit:
            with suppress(OSError):  # what the disk did not take
                self._audit.close()

    def _run(self) -> None:
        ending = False
        while not ending:
            jobs = [self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < 256:
                jobs.append(self._jobs.get())
            ending = None in jobs
            self._save([j for j in jobs if j is not None])

    def _save(self, jobs: list[_Job]) -> None:
        self._unsaved += [use for use, _, _ in jobs if use]
        try:
            if self._unsaved:
                self._store.add(self._unsaved, today())
                self._unsaved = []
        except sqlite3.Error:
            self.failures += 1
        try:
            if self._audit:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                lines = [
                    json.dumps({"time": stamp, **entry}, ensure_ascii=False)
                    for _, entry, _ in jobs
                    if entry
                ]
                self._audit.write("".join(line + "\n" for line in lines))
                self._audit.flush()
        except OSError:
            self.failures += 1
        for _, _, done in jobs:
            if done:
                done.get_loop().call_soon_threadsafe(_finish, done)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
