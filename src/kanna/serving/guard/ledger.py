"""Usage and the audit log, written in a thread of its own, many requests per commit."""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kanna.serving.guard.audit import AuditLog
from kanna.serving.guard.keys import KeyUsage, today
from kanna.serving.guard.store import KeyStore

_Entry = tuple[KeyUsage, dict[str, Any], "asyncio.Future[None]"]
_MAX_BATCH = 256
"""Requests of one commit."""
_RETRY = 1.0
"""Seconds after which what could not be written is tried again."""


class Ledger:
    """Records what was used.

    A full disk stops no request: what could not be written is kept, and tried again every second.

    Args:
        store: Gets the usage.
        audit: A file that gets one line of JSON per request; None: no audit log.

    Attributes:
        failures: How often something could not be written.
    """

    def __init__(self, store: KeyStore, audit: Path | None) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._unsaved: dict[tuple[str, str], KeyUsage] = {}
        self.failures = 0
        self._audit = AuditLog(audit) if audit else None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def record(self, usage: KeyUsage, audit_entry: dict[str, Any]) -> asyncio.Future[None]:
        """Count usage and log an entry.

        Returns:
            Done when the usage is committed: an answer ends only after it is counted.
        """
        done = asyncio.get_running_loop().create_future()
        self._queue.put((usage, audit_entry, done))
        return done

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._queue.put(None)
        self._thread.join(10)
        if self._audit:
            self._audit.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            try:
                batch = [self._queue.get(timeout=_RETRY if self._waits else None)]
            except queue.Empty:
                batch = []  # what was not written is tried again
            while not self._queue.empty() and len(batch) < _MAX_BATCH:
                batch.append(self._queue.get())
            closing = None in batch
            self._save([entry for entry in batch if entry is not None])

    @property
    def _waits(self) -> bool:
        """Whether something found no room, and is tried again."""
        return bool(self._unsaved) or (self._audit is not None and self._audit.waits)

    def _save(self, entries: list[_Entry]) -> None:
        for usage, _, _ in entries:
            self._keep(usage)
        try:
            if self._unsaved:
                self._store.add(list(self._unsaved.values()), today())
                self._unsaved = {}
        except sqlite3.Error:
            self.failures += 1
        try:
            if self._audit:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                lines = [
                    json.dumps({"time": stamp, **entry}, ensure_ascii=False)
                    for _, entry, _ in entries
                    if entry
                ]
                self._audit.write(lines)
        except OSError:
            self.failures += 1
        for _, _, done in entries:
            done.get_loop().call_soon_threadsafe(_resolve, done)

    def _keep(self, usage: KeyUsage) -> None:
        """Add to what is to be written, in as many rows as there are keys and models."""
        kept = self._unsaved.setdefault(
            (usage.key, usage.model),
            replace(usage, requests=0, prompt_tokens=0, completion_tokens=0),
        )
        kept.requests += usage.requests
        kept.prompt_tokens += usage.prompt_tokens
        kept.completion_tokens += usage.completion_tokens


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
