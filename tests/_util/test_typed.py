"""Readers of values that anybody may have written."""

from __future__ import annotations

from typing import Any

import pytest

from kanna._util.typed import FLAG, IDS, OBJECT, FieldKind, TypedObject, listed, number, text, whole
from kanna.errors import FormatError

RIGHT: list[tuple[FieldKind[Any], Any, Any]] = [
    (whole(), 3, 3),
    (whole(), 3.0, 3),
    (whole(-2), -2, -2),
    (number(), 3, 3.0),
    (number(0.0, 1.0), 0.5, 0.5),
    (text(), "é", "é"),
    (FLAG, False, False),
    (listed(whole()), [1, 2], [1, 2]),
    (IDS, 4, 4),
    (IDS, [4], [4]),
    (OBJECT, {"a": 1}, {"a": 1}),
]
WRONG: list[tuple[FieldKind[Any], Any]] = [
    (whole(), True),
    (whole(), -1),
    (whole(), 1 << 40),
    (whole(), "3"),
    (whole(), 0.5),
    (whole(), float("nan")),
    (whole(), float("inf")),
    (whole(), 10**400),
    (number(), 10**400),
    (number(), float("nan")),
    (number(), 1e300),
    (number(), "1"),
    (number(), True),
    (text(), "\ud800"),
    (text(2), "abc"),
    (text(), ["a"]),
    (FLAG, 1),
    (listed(whole()), [1, "a"]),
    (listed(whole(), 1), [1, 2]),
    (OBJECT, [("a", 1)]),
]


@pytest.mark.parametrize(("kind", "value", "expected"), RIGHT)
def test_values_of_the_kind(kind: FieldKind[Any], value: Any, expected: Any) -> None:
    assert TypedObject({"x": value}, "f.json").need("x", kind) == expected


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_values_of_another_kind(kind: FieldKind[Any], value: Any) -> None:
    with pytest.raises(FormatError) as error:
        TypedObject({"a": {"x": value}}, "f.json", "fetch f").part("a").get("x", kind, 1)
    assert error.value.found.startswith("f.json has a.x = ") and len(error.value.found) < 200
    assert (error.value.expected, error.value.todo) == (kind.words, "fetch f")


def test_null_is_absent() -> None:
    values = TypedObject({"x": None}, "f.json")
    assert values.get("x", whole(), 7) == 7 and "x" not in values
    assert list(values.parts("x")) == [] and not values.part("x").values
    with pytest.raises(FormatError, match=r"f\.json has no x"):
        values.need("x", whole())
