"""A fleet in one file of SQLite, with a write-ahead log.

What is committed outlives the end of the process; against the end of the machine, devices say
again what they reported last. So no commit waits for the disk, and what must wait for it, moving
the log into the file, is done by a thread and a connection of its own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from kanna.errors import KannaError
from kanna.fleet.databases.base import TakenError
from kanna.fleet.schema import SCHEMA

_LOOK = 1.0
"""Seconds between two looks at the log."""
_MOVE = 4 << 20
"""Bytes of the log that are worth moving."""
_RESTART = 64 << 20
"""Bytes of the log after which it begins anew, for which writers wait a moment."""


class SqliteDatabase:
    """The file, which is made when it does not exist.

    Raises:
        KannaError: It is no database of a fleet, or cannot be written.
    """

    shared = False

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not path.exists():
                path.touch(mode=0o600)
            self._db = sqlite3.connect(
                path, timeout=5, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            self._db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise KannaError(
                f"{path} cannot be used for a fleet: {error}", todo="give another folder"
            ) from error
        self._ended = threading.Event()
        self._mover = threading.Thread(target=self._move, name="fleet-log", daemon=True)
        self._mover.start()

    def execute(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement; raises TakenError."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.IntegrityError as error:
            raise TakenError(str(error)) from None

    def execute_many(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each row of values."""
        self._db.executemany(query, rows)

    def begin(self) -> None:
        """Begin a transaction."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Keep what was changed since."""
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Forget what was changed since."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def leads(self) -> bool:
        """Always: one server has the file."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._ended.set()
        self._mover.join()
        self._db.close()

    def _move(self) -> None:
        """Move the log into the file, again and again, while others read and write."""
        log = self.path.with_name(f"{self.path.name}-wal")
        with closing(sqlite3.connect(self.path, timeout=5)) as db:
            [(page,)] = db.execute("PRAGMA page_size").fetchall()
            before = 0
            while not self._ended.wait(_LOOK):
                with suppress(sqlite3.Error, OSError):  # a full disk now: later there may be room
                    if not log.exists() or log.stat().st_size < _MOVE:
                        continue
                    [(_, pages, _)] = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    if pages * page >= _RESTART and pages != before:
                        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                    before = pages
