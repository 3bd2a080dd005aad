"""What somebody may have meant who wrote a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)` where a known name is like `name`, else nothing."""
    lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), lower, 1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""
