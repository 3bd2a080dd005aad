"""How large a schema, a pattern or a grammar may be.

The numbers lie well above what OpenAI allows (10 levels, 5,000 properties, 1,000 values) and what
clients generate from classes, and below what any engine here stumbles over.
"""

from __future__ import annotations

MAX_BYTES = 1 << 20
"""Of a schema as JSON."""
MAX_GRAMMAR = 256 << 10
"""Bytes of a grammar."""
MAX_DEPTH = 200
"""Levels of JSON in a schema: an object in an object takes two."""
MAX_PARTS = 50_000
"""Objects, lists and values in a schema, those of all tools together."""
MAX_ALTERNATIVES = 5_000
"""Ways to begin a value in one place: branches of unions, through references, and values."""
MAX_VALUES = 10_000
"""Values of all enumerations together."""
MAX_NAME = 1_024
"""Characters of a property's name."""
MAX_TEXT = 1 << 16
"""Characters of a text in a schema."""
MAX_COUNT = 10_000
"""The least number of items, characters or properties that a schema may ask for."""
MAX_BOUND = 10**9
"""The largest number that a schema may allow of them."""
MAX_ITEMS = 100_000
"""The same for items of a list, each of which takes a place in a grammar."""
MAX_PATTERN = 4_096
"""Characters of a pattern."""
MAX_EXPANSION = 20_000
"""Parts of a pattern or of a grammar's rule, once counted repetitions are written out."""
MAX_NESTING = 100
"""Brackets inside each other, of a pattern or a grammar."""


class ConstraintError(Exception):
    """A shape that no engine is asked for; its text names what it has and the limit."""


def hold(what: str, value: int, limit: int) -> None:
    """Raise ConstraintError where `value` is above `limit`.

    Args:
        what: The measure, as the subject of a sentence.
        value: Of the constraint.
        limit: The largest that is allowed.
    """
    if value > limit:
        counted = f"{value:,}" if value < 10**12 else "more than 10^12"
        raise ConstraintError(f"{what} {counted}, at most {limit:,} are allowed")
