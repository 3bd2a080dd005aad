"""What a JSON schema asks for, measured without compiling it."""

from __future__ import annotations

import json
from typing import Any

from kanna.serving.constraints.limits import (
    MAX_ALTERNATIVES,
    MAX_BOUND,
    MAX_BYTES,
    MAX_COUNT,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_NAME,
    MAX_PARTS,
    MAX_PATTERN,
    MAX_TEXT,
    MAX_VALUES,
    ConstraintError,
    hold,
)
from kanna.serving.constraints.repetition import measure_pattern

_BOUNDS = (
    ("minItems", "maxItems", MAX_ITEMS),
    ("minLength", "maxLength", MAX_BOUND),
    ("minProperties", "maxProperties", MAX_BOUND),
    ("minContains", "maxContains", MAX_ITEMS),
)
_NAMES = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keys whose value has names of the schema's own as keys."""
_DATA = ("enum", "const", "default", "examples")
"""Keys whose value is no schema."""


_BRANCHING = 64
"""Values, names or branches from which on a schema has many ways to go on."""


def is_branching(schema: Any) -> bool:
    """Whether a schema, or a part of it, has many ways to go on in one place."""
    waiting: list[Any] = [schema]
    parts = 0
    while waiting:
        part = waiting.pop()
        parts += 1
        if isinstance(part, dict | list):
            if len(part) > _BRANCHING or parts > _BRANCHING**2:
                return True
            waiting += part.values() if isinstance(part, dict) else part
    return isinstance(schema, dict) and _Alternatives(schema).most() > _BRANCHING


class SchemaMeter:
    """Measures the schemas of one request; what it has counted stays.

    Attributes:
        parts: Objects, lists and values.
        values: Of all enumerations.
    """

    def __init__(self) -> None:
        self.parts = self.values = 0

    def measure(self, schema: dict[str, Any]) -> None:
        """Raise ConstraintError where a schema is too large; what it measures is added up.

        Args:
            schema: As a client sent it, parsed.
        """
        _hold_depth(schema)
        hold("the schema has bytes:", len(json.dumps(schema)), MAX_BYTES)
        self._walk(schema)
        count = _Alternatives(schema).most()
        hold("a value of the schema can begin in ways:", count, MAX_ALTERNATIVES)

    def _walk(self, schema: dict[str, Any]) -> None:
        # With each part, whether it is a schema, names with schemas, or data.
        waiting: list[tuple[Any, str]] = [(schema, "schema")]
        while waiting:
            part, kind = waiting.pop()
            self.parts += 1
            hold("the schema has parts:", self.parts, MAX_PARTS)
            if isinstance(part, str):
                hold("a text in the schema has characters:", len(part), MAX_TEXT)
            elif isinstance(part, list):
                waiting += [(item, kind) for item in part]
            elif isinstance(part, dict):
                for name in part:
                    hold("a name in the schema has characters:", len(name), MAX_NAME)
                if kind == "schema":
                    self._hold_keywords(part)
                waiting += [(value, _kind_below(kind, key)) for key, value in part.items()]

    def _hold_keywords(self, schema: dict[str, Any]) -> None:
        if isinstance(values := schema.get("enum"), list):
            self.values += len(values)
            hold("the schema enumerates values:", self.values, MAX_VALUES)
        patterns = schema.get("patternProperties")
        for pattern in (schema.get("pattern"), *(patterns if isinstance(patterns, dict) else ())):
            if isinstance(pattern, str):
                hold("a pattern has characters:", len(pattern), MAX_PATTERN)
                measure_pattern(pattern)
        for least_name, most_name, limit in _BOUNDS:
            least, most = _whole(schema, least_name), _whole(schema, most_name)
            hold(f"{least_name} is", least or 0, MAX_COUNT)
            hold(f"{most_name} is", most or 0, limit)
            if least is not None and most is not None and least > most:
                raise ConstraintError(
                    f"{least_name} is {least:,} and {most_name} {most:,}: no value has both"
                )


def _kind_below(kind: str, key: str) -> str:
    """What stands under a key of a part of that kind."""
    if kind == "schema":
        return "names" if key in _NAMES else "data" if key in _DATA else "schema"
    return "schema" if kind == "names" else kind


def _whole(schema: dict[str, Any], name: str) -> int | None:
    """A count of the schema's, also where it is written as 3.0; None where there is none."""
    value = schema.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value < 0 or value != value or value in {float("inf")}:
        raise ConstraintError(f"{name} is {value}, a number from 0 on was expected")
    return int(value)


def _hold_depth(schema: Any) -> None:
    level, depth = [schema], 0
    while level:
        depth += 1
        hold("the schema nests levels:", depth, MAX_DEPTH)
        level = [
            part
            for value in level
            for part in (value.values() if isinstance(value, dict) else value)
            if isinstance(part, dict | list)
        ]


class _Alternatives:
    """In how many ways a value can begin, wherever a schema stands.

    References and unions are followed, for a grammar tries all of them at once; what stands inside
    an object or a list begins after a bracket, and counts for itself.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._counts: dict[int, int] = {}
        self._open: set[int] = set()

    def most(self) -> int:
        """The largest number of ways; raises ConstraintError for what refers to itself."""
        most = 1
        waiting: list[tuple[Any, str]] = [(self._root, "schema")]
        while waiting:
            part, kind = waiting.pop()
            if isinstance(part, dict):
                if kind == "schema":
                    most = max(most, self._count(part, 0))
                waiting += [(value, _kind_below(kind, key)) for key, value in part.items()]
            elif isinstance(part, list):
                waiting += [(item, kind) for item in part]
        return most

    def _count(self, schema: Any, depth: int) -> int:
        if not isinstance(schema, dict):
            return 1
        key = id(schema)
        if key in self._counts:
            return self._counts[key]
        if key in self._open:
            raise ConstraintError(
                "a definition of the schema refers to itself with nothing in between"
            )
        hold("references and unions of the schema nest levels:", depth, MAX_DEPTH)
        self._open.add(key)
        count = self._own_count(schema, depth + 1)
        self._open.discard(key)
        self._counts[key] = count
        return count

    def _own_count(self, schema: dict[str, Any], depth: int) -> int:
        values, kinds = schema.get("enum"), schema.get("type")
        count = len(values) if isinstance(values, list) else 1
        if isinstance(kinds, list):
            count = max(count, len(kinds))
        for union in ("anyOf", "oneOf"):
            branches = schema.get(union)
            if isinstance(branches, list):
                count *= max(1, sum(self._count(branch, depth) for branch in branches))
        if isinstance(parts := schema.get("allOf"), list):
            for part in parts:
                count *= self._count(part, depth)
        if isinstance(reference := schema.get("$ref"), str):
            count *= self._count(self._target(reference), depth)
        return min(count, 10**15)

    def _target(self, reference: str) -> Any:
        """What a reference names; None where it leads out of the schema."""
        if not reference.startswith("#"):
            return None
        part: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, list):
                part = part[int(name)] if name.isdecimal() and int(name) < len(part) else None
            else:
                part = part.get(name) if isinstance(part, dict) else None
        return part
