"""What /openapi.json says beyond what FastAPI knows.

Bodies of requests, which the gateway reads itself, errors and keys.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {"description": "What is wrong", "content": {"application/json": {"schema": _ERROR}}}
}
"""Responses of every route."""


class BodySchemas:
    """The schemas of request bodies, and those they refer to."""

    def __init__(self) -> None:
        self._schemas: dict[str, Any] = {}

    def describe(self, kind: type[BaseModel]) -> dict[str, Any]:
        """`openapi_extra` of a route whose body is of that kind."""
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        self._schemas.update(schema.pop("$defs", {}))
        return {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }

    def add_to(self, app: FastAPI) -> None:
        """Add the schemas to the application's description."""
        plain = app.openapi

        def with_schemas() -> dict[str, Any]:
            description = plain()
            components = description.setdefault("components", {})
            components.setdefault("schemas", {}).update(self._schemas)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            description["security"] = [{}, {"key": []}]
            return description

        app.openapi = with_schemas  # type: ignore[method-assign]
