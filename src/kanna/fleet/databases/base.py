"""What the store of a fleet asks of a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kanna.errors import KannaError


class TakenError(KannaError):
    """A row with that key is there already."""


class DatabaseAwayError(KannaError):
    """The database does not answer: later it may."""


class FleetDatabase(Protocol):
    """One connection, used by one thread at a time.

    Attributes:
        shared: Whether servers on other machines may use it at the same time.
    """

    shared: bool

    def execute(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement, whose values stand as `?`.

        Raises:
            TakenError: A row with its key is there.
            DatabaseAwayError: The database does not answer.
        """
        ...

    def execute_many(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for each row of values."""
        ...

    def begin(self) -> None:
        """Begin a transaction: until it ends, no other writes."""
        ...

    def commit(self) -> None:
        """Keep what was changed since."""
        ...

    def roll_back(self) -> None:
        """Forget what was changed since."""
        ...

    def leads(self) -> bool:
        """Whether this server opens rings: one does, of those that share a database."""
        ...

    def close(self) -> None:
        """Close it."""
        ...
