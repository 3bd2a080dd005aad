"""The constraints in a request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kanna.serving.constraints.limits import MAX_GRAMMAR, hold
from kanna.serving.constraints.repetition import measure_rules
from kanna.serving.constraints.schema_size import SchemaMeter
from kanna.serving.engines import tool_calls

SCHEMA, GRAMMAR = "schema", "grammar"


@dataclass(slots=True, kw_only=True, frozen=True)
class Constraint:
    """What an answer is held to.

    Attributes:
        kind: `schema` or `grammar`.
        text: A schema as JSON, a grammar as it is.
        param: The field of the request that has it.
    """

    kind: str
    text: str
    param: str


def measure(body: dict[str, Any], param: str) -> None:
    """Raise ConstraintError where what one field holds an answer to is too large.

    Args:
        body: Of the request, checked.
        param: The field.
    """
    if param == "grammar":
        grammar: str = body["grammar"]
        hold("the grammar has bytes:", len(grammar.encode("utf-8", "replace")), MAX_GRAMMAR)
        measure_rules(grammar)
        return
    meter = SchemaMeter()
    for schema in _schemas(body, param):
        meter.measure(schema)


def params_of(body: dict[str, Any]) -> list[str]:
    """The fields of a request that hold its answer to something."""
    names = ("grammar", "json_schema", "response_format", "tools")
    return [name for name in names if body.get(name)]


def constraints_of(body: dict[str, Any], *, every_tool: bool) -> list[Constraint]:
    """What has to be compiled for a request.

    Args:
        body: Of the request, checked and measured.
        every_tool: Whether the engine compiles the tools of a chat that need not be called, too.
    """
    constraints: list[Constraint] = []
    for param in params_of(body):
        if param == "grammar":
            constraints.append(Constraint(kind=GRAMMAR, text=body[param], param=param))
        elif param != "tools":
            constraints += [_constraint(schema, param) for schema in _schemas(body, param)]
        elif every_tool or body.get("tool_choice") == "required":
            schema = tool_calls.schema(body["tools"], "required")
            constraints += [_constraint(schema, param)] if schema else []
    return constraints


def _constraint(schema: dict[str, Any], param: str) -> Constraint:
    return Constraint(kind=SCHEMA, text=json.dumps(schema), param=param)


def _schemas(body: dict[str, Any], param: str) -> list[dict[str, Any]]:
    value = body[param]
    if param == "tools":
        schemas = [tool["function"].get("parameters") for tool in value]
    elif param == "json_schema":
        schemas = [value]
    else:
        wrapped = value.get("json_schema") or {}
        schemas = [wrapped.get("schema") or value.get("schema")]
    return [schema for schema in schemas if schema]
