"""Conditions of a recipe: `quality.kl_mean < 0.02 and preset != "Q2_K"`.

A condition compares names, numbers and texts; it calls nothing and is never run as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Scalar: TypeAlias = "str | int | float | bool | None"
Operand: TypeAlias = "Scalar | list[Scalar]"

MOST_CHARACTERS = 1000
_COMPARE: dict[type[ast.cmpop], Callable[[Operand, Operand], bool]] = {
    ast.Lt: lambda a, b: _ordered(operator.lt, a, b),
    ast.LtE: lambda a, b: _ordered(operator.le, a, b),
    ast.Gt: lambda a, b: _ordered(operator.gt, a, b),
    ast.GtE: lambda a, b: _ordered(operator.ge, a, b),
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.In: lambda a, b: isinstance(b, list) and a in b,
    ast.NotIn: lambda a, b: isinstance(b, list) and a not in b,
}
_COMPUTE: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class ExpressionError(Exception):
    """A condition that cannot be read, or that has no value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that was read.

    Attributes:
        text: As it is written.
        names: The names in it, `step.figure` or `variable`.
        tree: What it was read as.
    """

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    def holds(self, values: Mapping[str, Operand]) -> bool:
        """Whether it is true of these values; a comparison with what was not measured is false.

        Raises:
            ExpressionError: A number is divided by zero, or a text is computed with.
        """
        return bool(_value(self.tree, values))

    def value(self, values: Mapping[str, Operand]) -> Operand:
        """What it comes to, of an expression that is no comparison; raises as `holds` does."""
        return _value(self.tree, values)


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ExpressionError: It is none, or holds what conditions cannot.
    """
    if len(text) > MOST_CHARACTERS:
        raise ExpressionError(f"{len(text)} characters, at most {MOST_CHARACTERS}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names: list[str] = []
        _check(tree, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError("it cannot be read") from None
    return Condition(text, tuple(dict.fromkeys(names)), tree)


def _check(node: ast.expr, names: list[str]) -> None:
    if isinstance(node, ast.Constant):
        if not isinstance(node.value, str | int | float | bool | None):
            raise ExpressionError(f"{node.value!r} is neither a number nor a text")
    elif isinstance(node, ast.Name | ast.Attribute):
        names.append(_name(node))
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        _check(node.operand, names)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTE:
        _check(node.left, names)
        _check(node.right, names)
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        for value in (node.left, *node.comparators):
            _check(value, names)
    elif isinstance(node, ast.List | ast.Tuple):
        for value in node.elts:
            _check(value, names)
    else:
        raise ExpressionError(f"{ast.unparse(node)!r} is nothing that a condition can hold")


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    raise ExpressionError(f"{ast.unparse(node)!r} is no name of a step's figure or a variable")


def _value(node: ast.expr, values: Mapping[str, Operand]) -> Operand:
    if isinstance(node, ast.Constant):
        constant = node.value
        return constant if isinstance(constant, str | int | float | bool) else None
    if isinstance(node, ast.Name | ast.Attribute):
        return values[_name(node)]
    if isinstance(node, ast.BoolOp):
        results = (bool(_value(v, values)) for v in node.values)
        return all(results) if isinstance(node.op, ast.And) else any(results)
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, values)
        return not operand if isinstance(node.op, ast.Not) else -_number(operand)
    if isinstance(node, ast.BinOp):
        left, right = (_value(side, values) for side in (node.left, node.right))
        if left is None or right is None:
            return None
        try:
            return _COMPUTE[type(node.op)](_number(left), _number(right))
        except (ZeroDivisionError, OverflowError) as error:
            raise ExpressionError(str(error)) from None
    if isinstance(node, ast.Compare):
        sides = [_value(side, values) for side in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides, sides[1:], strict=False)
        return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
    assert isinstance(node, ast.List | ast.Tuple)
    return [item for v in node.elts if not isinstance(item := _value(v, values), list)]


def _ordered(compare: Callable[[float, float], bool], a: Operand, b: Operand) -> bool:
    return a is not None and b is not None and compare(_number(a), _number(b))


def _number(value: Operand) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{value!r} is no number")
    return value
