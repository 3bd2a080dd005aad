"""One error of all that stands in the way of a source."""

from __future__ import annotations

from collections.abc import Sequence

from kanna.errors import UnsupportedError
from kanna.families.base import Problem

_MOST_NAMED = 6


def raise_fatal(problems: Sequence[Problem]) -> None:
    """Raise UnsupportedError that names the first fatal problems, if there are any."""
    fatal = [p for p in problems if p.fatal]
    if fatal:
        first, rest = fatal[0], len(fatal) - _MOST_NAMED
        others = "".join(f"; also: {p.found}" for p in fatal[1:_MOST_NAMED])
        more = f"; and {rest} more" if rest > 0 else ""
        raise UnsupportedError(
            first.found + others + more, expected=first.expected, todo=first.todo
        )
