"""JSON in the text of an answer, held to the small part of JSON Schema that the tasks use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL | re.IGNORECASE)
_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def whole(text: str) -> Any:
    """The value that a text is, alone or in a fence of Markdown; raises ValueError for others."""
    fenced = _FENCE.match(text)
    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def objects(text: str) -> list[dict[str, Any]]:
    """The objects in a text, in their order; those inside of others are not listed."""
    found_at, values = text.find("{"), list[dict[str, Any]]()
    while found_at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, found_at)
            values.append(value)
        except (ValueError, RecursionError):
            end = found_at + 1
        found_at = text.find("{", end)
    return values


def problem(value: Any, schema: Mapping[str, Any], place: str = "") -> str:
    """What keeps a value from matching a schema; "" where it matches.

    Args:
        value: Decoded JSON.
        schema: `type`, `enum`, `minimum`, `maximum`, `properties`, `required`, `items`; properties
            that are not named are refused.
        place: Where the value stands, for the answer.
    """
    at = f"{place}: " if place else ""
    kind = schema["type"]
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return f"{at}{value!r:.40} is no {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{at}{value!r:.40} is none of {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema and not schema["minimum"] <= value <= schema["maximum"]:
        return f"{at}{value} is not from {schema['minimum']} to {schema['maximum']}"
    if kind == "object":
        return _problem_of_object(value, schema, place)
    if kind == "array":
        listed: Any = value
        items = (problem(v, schema["items"], f"{place}[{i}]") for i, v in enumerate(listed))
        return next(filter(None, items), "")
    return ""


def _problem_of_object(value: Any, schema: Mapping[str, Any], place: str) -> str:
    properties: Mapping[str, Any] = schema["properties"]
    at = f"{place}: " if place else ""
    if absent := [name for name in schema.get("required", properties) if name not in value]:
        return f"{at}{absent[0]} is missing"
    if unknown := [name for name in value if name not in properties]:
        return f"{at}{unknown[0]!r:.40} is not in the schema"
    inner = (
        problem(v, properties[name], f"{place}.{name}".lstrip(".")) for name, v in value.items()
    )
    return next(filter(None, inner), "")
