"""Arguments of verbs as people write them: one or several, names by comma."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TypeVar

T = TypeVar("T")


def several(value: T | Iterable[T] | None) -> list[T]:
    """The value in a list, or the values of a collection; a text or a path is one value."""
    if value is None:
        return []
    if isinstance(value, (str, PathLike)) or not isinstance(value, Iterable):
        return [value]  # pyright: ignore[reportReturnType, reportUnknownVariableType]
    return [*value]  # pyright: ignore[reportReturnType, reportUnknownVariableType]


def names(value: str | Iterable[str] | None) -> list[str]:
    """Names, of which a text may hold several, separated by commas."""
    texts = several(value)
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]
