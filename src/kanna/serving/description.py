"""What /openapi.json says beyond the routes.

Bodies of requests, which are read by hand, errors and keys.
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
ANSWERS: dict[int | str, dict[str, Any]] = {
    "default": {"description": "What is wrong", "content": {"application/json": {"schema": _ERROR}}}
}
"""Of every route."""


class Bodies:
    """Collects the schemas that bodies refer to."""

    def __init__(self) -> None:
        self._schemas: dict[str, Any] = {}

    def of(self, kind: type[BaseModel]) -> dict[str, Any]:
        """`openapi_extra` of a route whose body is of that kind."""
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        self._schemas.update(schema.pop("$defs", {}))
        return {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        }

    def add_to(self, app: FastAPI) -> None:
        """Make the application's description hold them."""
        plain = app.openapi

        def described() -> dict[str, Any]:
            found = plain()
            components = found.setdefault("components", {})
            components.setdefault("schemas", {}).update(self._schemas)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{}, {"key": []}]
            return found

        app.openapi = described  # type: ignore[method-assign]
