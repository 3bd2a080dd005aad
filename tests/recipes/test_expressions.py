"""Conditions compare; they call nothing."""

from __future__ import annotations

import pytest

from kanna.recipes.expressions import ExpressionError, Operand, parse

VALUES: dict[str, Operand] = {
    "a.kl": 0.01,
    "a.none": None,
    "preset": "Q4_0",
    "many": ["x", "y"],
    "yes": True,
    "n": 3,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("a.kl < 0.02", True),
        ("a.kl < 0.02 and preset != 'Q4_0'", False),
        ("a.kl * 2 + 1 >= 1.02", True),
        ("a.none < 5", False),
        ("a.none == None", True),
        ("a.none * 2 < 5 or yes", True),
        ("not yes", False),
        ("preset in ['Q4_0', 'Q8_0']", True),
        ("preset not in many", True),
        ("0 < n < 3", False),
        ("-n < -2", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert parse(text).holds(VALUES) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b.c < 1",
        "open('x')",
        "(lambda: 1)()",
        "[x for x in many]",
        "a.kl if yes else 1",
        "many[0] == 1",
        "b'x' == 1",
        "n ** 99999 > 1",
        "x := 1",
        "f'{n}' == 1",
        "(" * 300 + "1" + ")" * 300,
        "1 +" * 2000 + "1",
        "a\x00b",
    ],
)
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


@pytest.mark.parametrize("text", ["preset < 1", "1 / 0 > 1", "-preset == 1", "preset + 1 > 1"])
def test_conditions_without_a_value(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text).holds(VALUES)
