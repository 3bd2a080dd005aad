"""A fleet in a database of PostgreSQL, which servers on several machines may share.

Writers take turns by an advisory lock, as they do in SQLite, so what holds for one server holds
for many. As there, a commit does not wait for the disk: it outlives this process, and against the
end of the database's machine devices say again what they reported last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from kanna._util import extras, outgoing
from kanna.errors import KannaError, UsageError
from kanna.fleet.databases.base import DatabaseAwayError, TakenError
from kanna.fleet.schema import SCHEMA

EXTRA = "postgres"
SCHEMES = ("postgresql://", "postgres://")
_NAME = "kanna_fleet"
"""The schema of its tables, so that others may have theirs in the same database."""
_WRITER, _LEADER = 0x6B616E6E6101, 0x6B616E6E6102
"""Advisory locks: who writes now, and who opens rings."""
_CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "application_name": "kanna fleet",
}
"""Of a connection, where its address says nothing else: one that is cut is known as such."""
_SESSION = (
    "SET synchronous_commit = off",
    "SET idle_in_transaction_session_timeout = '30s'",  # a server that hangs lets others go on
    "SET lock_timeout = '40s'",
    f"SET search_path = {_NAME}",
)
_LOCKED = f"BEGIN; SELECT pg_advisory_xact_lock({_WRITER})"

T = TypeVar("T")


class PostgresqlDatabase:
    """A connection to the database, made again when it broke.

    Args:
        address: `postgresql://USER@HOST/NAME`; what it leaves out, the password too, is found as
            `psql` finds it.

    Raises:
        UsageError: It is no such address.
        DatabaseAwayError: The database does not answer, or refuses.
        MissingError: The extra `postgres` is not installed.
    """

    shared = True

    def __init__(self, address: str) -> None:
        extras.require(EXTRA, "--database")
        import psycopg
        from psycopg import conninfo

        self._away = (psycopg.OperationalError, psycopg.InterfaceError)
        self._taken, self._error = psycopg.errors.UniqueViolation, psycopg.Error
        try:
            self._options: dict[str, Any] = {**_CONNECTION, **conninfo.conninfo_to_dict(address)}
        except psycopg.ProgrammingError as error:
            raise UsageError(
                f"--database is no address: {str(error).strip()}",
                expected="postgresql://USER@HOST/NAME",
            ) from None
        host = str(self._options.get("host") or "")
        self.name = f"the database {self._options.get('dbname', '')} at {host or 'this machine'}"
        for one in host.split(","):
            if one and not one.startswith("/"):
                outgoing.refuse(one)
        self._line: Any = None
        self._inside = self._leading = False
        try:
            self._connected(make=True)
        except psycopg.OperationalError as error:
            raise DatabaseAwayError(f"{self.name} does not answer: {_said(error)}") from None
        except psycopg.Error as error:
            raise KannaError(
                f"{self.name} cannot be used for a fleet: {_said(error)}",
                expected="a database in which its user may create a schema",
            ) from None

    def _connected(self, *, make: bool = False) -> Any:
        """The connection; another one where it broke."""
        import psycopg

        if self._line is None:
            self._leading = False
            line: Any = psycopg.connect(autocommit=True, **self._options)
            for setting in _SESSION:
                line.execute(setting)
            if make:
                _make(line)
            self._line = line
        return self._line

    def _asked(self, ask: Callable[[Any], T]) -> T:
        """What the connection gives; once more over another where it broke between two."""
        fresh = self._line is None
        try:
            return ask(self._connected())
        except self._taken as error:
            raise TakenError(_said(error)) from None
        except self._error as error:
            broken = self._line is None or self._line.closed
            if not (broken or isinstance(error, self._away)):
                raise
            inside = self._inside
            self._drop()
            if broken and not fresh and not inside:
                return self._asked(ask)
            raise DatabaseAwayError(f"{self.name} does not answer: {_said(error)}") from None

    def _drop(self) -> None:
        line, self._line = self._line, None
        self._inside = self._leading = False
        if line is not None:
            line.close()

    def execute(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement; raises TakenError and DatabaseAwayError."""

        def ask(line: Any) -> list[tuple[Any, ...]]:
            done = line.execute(_marked(query), [_text(one) for one in values])
            return done.fetchall() if done.description else []

        return self._asked(ask)

    def execute_many(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each row of values."""
        given = [[_text(one) for one in row] for row in rows]
        self._asked(lambda line: line.cursor().executemany(_marked(query), given))

    def begin(self) -> None:
        """Begin a transaction, when it is this server's turn to write."""
        self._asked(lambda line: line.execute(_LOCKED, prepare=False))
        self._inside = True

    def commit(self) -> None:
        """Keep what was changed since."""
        self._asked(lambda line: line.execute("COMMIT"))
        self._inside = False

    def roll_back(self) -> None:
        """Forget what was changed since."""
        self._inside = False
        line = self._line
        if line is not None and line.info.transaction_status:
            try:
                line.execute("ROLLBACK")
            except self._error:
                self._drop()

    def leads(self) -> bool:
        """Whether this server opens rings: the first that asks, as long as it is connected."""
        if not self._leading:
            query = f"SELECT pg_try_advisory_lock({_LEADER})"
            [(leading,)] = self.execute(query)
            self._leading = bool(leading)
        return self._leading

    def close(self) -> None:
        """Close the connection."""
        self._drop()


def _make(line: Any) -> None:
    """Make the tables where there are none; one server at a time."""
    with line.transaction():
        line.execute(f"SELECT pg_advisory_xact_lock({_WRITER})")
        query = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
        if not line.execute(query, (_NAME,)).fetchall():
            line.execute(f"CREATE SCHEMA {_NAME}")
        line.execute(SCHEMA)


def _marked(query: str) -> Any:
    """A statement with the marks of psycopg."""
    return query.replace("%", "%%").replace("?", "%s")


def _text(value: Any) -> Any:
    """A value; a text without the character that PostgreSQL keeps in none."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
