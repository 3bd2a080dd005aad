"""What other libraries answer about files of a model: asked once, and kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kanna._util import verified
from kanna._util.disk import newest_first
from kanna.errors import KannaError

FAILURE = "failure"
"""Key of an answer that says why there is none."""
T = TypeVar("T")


def answer(
    folder: Path,
    question: object,
    ask: Callable[[], dict[str, Any]],
    parse: Callable[[dict[str, Any]], T],
    *,
    most: int = 256,
) -> T | str:
    """A library's answer to a question; the reason, where it has none.

    Args:
        folder: In the cache folder, for answers of this kind.
        question: What the answer depends on, versions included, as JSON can hold it.
        ask: Asks the library.
        parse: Reads what `ask` gave; it raises TypeError, ValueError or KeyError for what an
            earlier version kept.
        most: How many answers are kept.
    """
    key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{key}.json"
    if verified.unchanged(path):
        try:
            return parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            pass  # of an earlier version
    try:
        given = ask()
    except KannaError as error:
        return error.found
    if FAILURE in given:
        return str(given[FAILURE])
    verified.keep(path, json.dumps(given))
    for old in newest_first(path.parent.glob("*.json"))[most:]:
        old.unlink(missing_ok=True)
    return parse(given)
