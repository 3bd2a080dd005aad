"""What the store of a fleet asks of its database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from helpers import fleets

from kanna.fleet.databases import sqlite
from kanna.fleet.databases.base import TakenError
from kanna.fleet.databases.sqlite import SqliteDatabase


def test_the_log_is_moved_by_another_than_who_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_LOOK", 0.01), ("_MOVE", 1), ("_RESTART", 1 << 18)):
        monkeypatch.setattr(sqlite, name, value)
    path = tmp_path / "f.sqlite"
    log = path.with_name("f.sqlite-wal")
    with closing(SqliteDatabase(path)) as database:
        assert database.execute("PRAGMA wal_autocheckpoint") == [(0,)]
        written = 0

        def moved() -> bool:
            nonlocal written
            database.begin()
            database.execute("INSERT INTO counters VALUES (?, ?)", (f"{written} {'x' * 9000}", 1))
            database.commit()
            written += 1
            # It begins anew at about 256 KiB, or it would be as long as all that was written. A
            # machine that is busy is slow to move it.
            return path.stat().st_size > 2 << 20 and log.stat().st_size < written * 9000 * 0.8

        fleets.wait_for(moved)
        assert database.execute("SELECT COUNT(*) FROM counters") == [(written,)]


def test_a_row_that_is_there_is_not_written_twice(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "f.sqlite")) as database:
        database.execute("INSERT INTO counters VALUES ('a', 1)")
        with pytest.raises(TakenError):
            database.execute("INSERT INTO counters VALUES ('a', 2)")
        assert database.execute("SELECT value FROM counters") == [(1,)]
