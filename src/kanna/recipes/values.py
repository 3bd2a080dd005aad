"""Values of a recipe, and `${names}` in them.

`${model}` is a variable or an axis of a matrix, `${small}` what the step `small` made,
`${small.report}` another output of it, `${small.*}` those of every instance; `$${` writes `${`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kanna.recipes.document import Value

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_WRITTEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_NAMED = re.compile(rf"({NAME})(?:\.({NAME}))?(\.\*)?")


class RootedText(str):
    """A text of a file, which knows the folder that a path in it is relative to."""

    __slots__ = ("folder",)
    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> RootedText:
        """Returns `text` with its folder."""
        rooted = cls(text)
        rooted.folder = folder
        return rooted


@dataclass(frozen=True, slots=True)
class NameReference:
    """What stands in `${…}`.

    Attributes:
        written: As it is written.
        name: Of a variable, an axis or a step; empty where what is written is no name.
        output: Of a step; empty for its main one.
        every: Whether all instances of a step are meant.
    """

    written: str
    name: str
    output: str = ""
    every: bool = False


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Where an option takes what another step makes.

    Attributes:
        instances: Ids of the steps' instances.
        output: Name of the output.
        every: Whether the option gets a list of them.
    """

    instances: tuple[str, ...]
    output: str
    every: bool


Option: TypeAlias = (
    "str | int | float | bool | None | StepOutput | list[Option] | dict[str, Option]"
)


def rooted(value: Value, folder: Path) -> Value:
    """The value with every text knowing its folder."""
    if isinstance(value, str):
        return value if isinstance(value, RootedText) else RootedText.of(value, folder)
    if isinstance(value, list):
        return [rooted(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: rooted(item, folder) for key, item in value.items()}
    return value


def references(value: Value) -> Iterator[NameReference]:
    """Every reference in a value."""
    if isinstance(value, str):
        for match in _WRITTEN.finditer(value):
            if match[1] is not None:
                yield _reference(match[1])
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from references(item)


def fill(value: Value, lookup: Callable[[NameReference], Option]) -> Option:
    """The value with every reference replaced.

    Args:
        value: As it is written.
        lookup: What a reference stands for.

    Raises:
        ValueError: What a step makes, or a list, stands within a text.
    """
    if isinstance(value, list):
        return [fill(item, lookup) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, lookup) for key, item in value.items()}
    if not isinstance(value, str) or "${" not in value:
        return value
    whole = _WRITTEN.fullmatch(value)
    if whole is not None and whole[1] is not None:
        return lookup(_reference(whole[1]))
    folder = value.folder if isinstance(value, RootedText) else None

    def text(match: re.Match[str]) -> str:
        nonlocal folder
        if match[1] is None:
            return "${"
        part = lookup(_reference(match[1]))
        if isinstance(part, StepOutput | list | dict):
            raise ValueError(f"${{{match[1]}}} stands within a text")
        if match.start() == 0 and isinstance(part, RootedText):
            folder = part.folder
        return str(part)

    filled = _WRITTEN.sub(text, value)
    return filled if folder is None else RootedText.of(filled, folder)


def _reference(written: str) -> NameReference:
    match = _NAMED.fullmatch(written.strip())
    if match is None:
        return NameReference(written, "")
    return NameReference(written, match[1], match[2] or "", bool(match[3]))


def replaced(value: Option, change: Callable[[StepOutput], Value]) -> Value:
    """A filled value with the outputs of other steps replaced."""
    if isinstance(value, StepOutput):
        return change(value)
    if isinstance(value, list):
        items: list[Value] = []
        for item in value:
            new = replaced(item, change)
            several = isinstance(item, StepOutput) and item.every and isinstance(new, list)
            items.extend(new) if several else items.append(new)  # pyright: ignore[reportArgumentType]
        return items
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    return value
