"""The constraints in a request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kanna.serving.constraints.limits import MAX_GRAMMAR, hold
from kanna.serving.constraints.repetition import measure_rules
from kanna.serving.constraints.schema_size import SchemaMeter, is_branching
from kanna.serving.engines import tool_calls
from kanna.serving.engines.shapes import CHAT, GRAMMAR, SCHEMA

_CHAT_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")


@dataclass(slots=True, kw_only=True, frozen=True)
class Constraint:
    """What an answer is held to.

    Attributes:
        kind: `schema`, `grammar` or `chat`.
        text: A schema as JSON, a grammar as it is, the fields of a chat as JSON.
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
        every_tool: Whether the engine compiles the tools of a chat that need not be called, too,
            and makes a grammar of its own of a chat's tools and schemas.
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
    if every_tool and "messages" in body and (fields := _chat_fields(body)):
        param = "tools" if body.get("tools") else "response_format"
        constraints.append(Constraint(kind=CHAT, text=json.dumps(fields), param=param))
    return constraints


def _chat_fields(body: dict[str, Any]) -> dict[str, Any]:
    """What an engine turns into a grammar of its own; empty: nothing, or llguidance is asked."""
    fields = {name: body[name] for name in _CHAT_FIELDS if body.get(name)}
    if body.get("tools"):
        if body.get("tool_choice") != "required":
            return fields
        # Such an answer is held to a schema: `kanna.serving.tool_choice`.
        schema: Any = tool_calls.schema(body["tools"], "required")
        fields = {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    elif not fields.get("response_format"):
        return {}
    else:
        shape = fields["response_format"]
        schema = (shape.get("json_schema") or shape).get("schema") or {}
    return {} if is_branching(schema) else fields


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
