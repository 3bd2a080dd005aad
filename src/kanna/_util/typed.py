"""Values of files that anybody may have written, read as the type they must have.

A JSON object or a header can hold anything under any name: `read` gives a value of one kind, or a
FormatError that says which field of which file it is, what it holds and what it should hold.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from kanna.errors import FormatError

LARGEST_COUNT = (1 << 31) - 1
"""Of anything that is counted: runtimes keep sizes and ids in 32 bits."""
LARGEST_REAL = 3.4028234663852886e38
"""Of single precision, in which every runtime keeps its numbers."""
MOST_TEXT = 1 << 24
"""Characters of a text, such as a chat template."""
AGAIN = "fetch it again from where the model was published"

_MOST_BITS = 128
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring = 3, 60

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class FieldKind(Generic[T]):
    """What a field must hold.

    Attributes:
        words: What is expected, for people.
        convert: The value as this type; None for anything else.
    """

    words: str
    convert: Callable[[object], T | None]


def whole(low: int = 0, high: int = LARGEST_COUNT) -> FieldKind[int]:
    """A whole number from `low` to `high`; 32.0 is one, true and "32" are none."""

    def convert(value: object) -> int | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return None
        return value if low <= value <= high else None

    return FieldKind(f"a whole number from {low} to {high}", convert)


def number(low: float = -LARGEST_REAL, high: float = LARGEST_REAL) -> FieldKind[float]:
    """A finite number from `low` to `high`, which single precision can hold."""

    def convert(value: object) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if low <= value <= high else None  # a nan is in no range

    if (low, high) == (-LARGEST_REAL, LARGEST_REAL):
        return FieldKind("a number", convert)
    upper = f" to {high:g}" if high < LARGEST_REAL else ""
    return FieldKind(f"a number from {low:g}{upper}", convert)


def real(value: object) -> float | None:
    """`value` as a float; None when it is no number, not finite, or beyond single precision."""
    return _REAL.convert(value)


_REAL = number()


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


FLAG = FieldKind("true or false", _flag)


def text(most: int = MOST_TEXT, least: int = 0) -> FieldKind[str]:
    """A text of `least` to `most` characters that UTF-8 can hold."""

    def convert(value: object) -> str | None:
        if not isinstance(value, str) or not least <= len(value) <= most:
            return None
        return value if is_plain(value) else None

    return FieldKind(f"a text of {least} to {most} characters in UTF-8", convert)


def is_plain(value: str) -> bool:
    """Whether UTF-8 has every character: halves of a surrogate pair have no bytes."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(item: FieldKind[T], most: int | None = None) -> FieldKind[list[T]]:
    """A list whose elements are all of one kind, at most so many."""

    def convert(value: object) -> list[T] | None:
        if not isinstance(value, list) or (most is not None and len(cast(list[Any], value)) > most):
            return None
        items = [item.convert(v) for v in cast(list[object], value)]
        return None if any(i is None for i in items) else cast(list[T], items)

    size = "" if most is None else f" of at most {most}"
    return FieldKind(f"a list{size}, each {item.words}", convert)


def either(one: FieldKind[T], other: FieldKind[U]) -> FieldKind[T | U]:
    """A value of one of two kinds."""

    def convert(value: object) -> T | U | None:
        first = one.convert(value)
        return other.convert(value) if first is None else first

    return FieldKind(f"{one.words}, or {other.words}", convert)


def _object(value: object) -> Mapping[str, Any] | None:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else None


OBJECT = FieldKind("an object", _object)
LAYERS = whole(1, 4096)
"""Of a model; the largest that are published have some hundred."""
IDS = either(whole(), listed(whole(), 4096))
"""An id of a token, or a list of them."""
TEXTS = listed(text())


def shown(value: object) -> str:
    """A value for a message, short whatever it is."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | int | float) or value is None:
        return repr(value[:80] if isinstance(value, str) else value)[:80]
    try:
        return _REPR.repr(value)[:80]
    except (ValueError, RecursionError):  # a number of many digits in it
        return f"a {type(value).__name__}"


def read(value: object, kind: FieldKind[T], name: str, file: str, todo: str = AGAIN) -> T:
    """`value` as the kind its field must have.

    Args:
        value: What the file holds.
        kind: What it should be.
        name: The field.
        file: The file, or what else to call the place.
        todo: What the user can do.

    Raises:
        FormatError: It is something else.
    """
    converted = kind.convert(value)
    if converted is None:
        raise FormatError(f"{file} has {name} = {shown(value)}", expected=kind.words, todo=todo)
    return converted


@dataclass(frozen=True, slots=True)
class TypedObject:
    """A JSON object of a file, whose fields are read by name and kind.

    Attributes:
        values: The object.
        file: What to call the file.
        todo: What the user can do about a wrong value.
        inside: Name of the object within the file, with a dot after it; "" for the whole.
    """

    values: Mapping[str, Any]
    file: str
    todo: str = AGAIN
    inside: str = ""

    @classmethod
    def of(cls, value: object, file: str, todo: str = AGAIN) -> TypedObject:
        """What a JSON file holds, which must be an object. Raises FormatError."""
        if not isinstance(value, Mapping):
            raise FormatError(f"{file} holds {shown(value)}", expected="an object", todo=todo)
        return cls(cast(Mapping[str, Any], value), file, todo)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def need(self, key: str, kind: FieldKind[T]) -> T:
        """The value of a field. Raises FormatError when it is absent, null or another kind."""
        value = self.values.get(key)
        if value is None:
            raise FormatError(
                f"{self.file} has no {self.inside}{key}", expected=kind.words, todo=self.todo
            )
        return read(value, kind, self.inside + key, self.file, self.todo)

    def get(self, key: str, kind: FieldKind[T], default: U) -> T | U:
        """The value of a field, or `default` where it is absent or null. Raises FormatError."""
        return default if self.values.get(key) is None else self.need(key, kind)

    def part(self, key: str) -> TypedObject:
        """An object inside this one; an empty one where it is absent or null."""
        values: Mapping[str, Any] = self.get(key, OBJECT, {})
        return TypedObject(values, self.file, self.todo, f"{self.inside}{key}.")

    def parts(self, key: str) -> Iterator[TypedObject]:
        """The objects of a list; none where it is absent or null."""
        for at, values in enumerate(self.get(key, listed(OBJECT), list[Mapping[str, Any]]())):
            yield TypedObject(values, self.file, self.todo, f"{self.inside}{key}[{at}].")
