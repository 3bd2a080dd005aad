"""Where a fleet is kept: one file of SQLite, or a database of PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from kanna.errors import UsageError
from kanna.fleet.databases.base import DatabaseAwayError, FleetDatabase, TakenError

__all__ = ["DatabaseAwayError", "FleetDatabase", "TakenError", "opened"]


def opened(place: str | Path) -> FleetDatabase:
    """The database at a place.

    Args:
        place: A file, or an address as `postgresql://USER@HOST/NAME`.

    Raises:
        UsageError: It is an address of something else.
        KannaError: It cannot be used.
        MissingError: The extra `postgres` is not installed.
    """
    from kanna.fleet.databases.postgresql import SCHEMES, PostgresqlDatabase
    from kanna.fleet.databases.sqlite import SqliteDatabase

    if isinstance(place, Path):
        return SqliteDatabase(place)
    if not place.startswith(SCHEMES):
        kind = place.partition("://")[0][:40]
        raise UsageError(f"--database names {kind!r}", expected="postgresql://USER@HOST/NAME")
    return PostgresqlDatabase(place)
