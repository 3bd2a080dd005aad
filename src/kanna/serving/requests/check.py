"""One body against its type."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from kanna.serving.problems import ApiError
from kanna.serving.requests.fields import Request
from kanna.serving.requests.scalars import show

MAX_DEPTH = 256
"""Objects and lists in each other."""
_COMPLETE = {"value", "missing"}
"""Types of errors whose text needs no value beside it."""


def parse(data: bytes) -> Any:
    """The JSON of a body; raises ApiError 400.

    NaN and Infinity are no JSON, and half of a surrogate pair is no text: no engine could read it.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body has half of a surrogate pair in a text") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        reason = str(error) if isinstance(error, _ConstantError) else ""
        raise ApiError(400, f"the body is not JSON{reason}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _is_deeper(value: Any, limit: int) -> bool:
    """Whether objects and lists are nested deeper than so many."""
    level: list[Any] = [value]
    for _ in range(limit + 1):
        containers = [part for part in level if isinstance(part, dict | list)]
        if not containers:
            return False
        level = [
            item
            for part in containers
            for item in (part.values() if isinstance(part, dict) else part)
        ]
    return True


def _too_deep() -> ApiError:
    return ApiError(400, f"the body is nested more than {MAX_DEPTH} deep", code="body_too_complex")


def encode(body: dict[str, Any]) -> bytes:
    """A body as an engine gets it; raises ApiError 400 for numbers that JSON cannot have."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except ValueError:
        raise ApiError(400, "a number in the body is larger than 1.8e308") from None


class _ConstantError(ValueError):
    """NaN or Infinity in a body."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(f": {name} is no JSON number")


def check(kind: type[BaseModel], value: Any) -> dict[str, Any]:
    """The body of a request as engines get it.

    Args:
        kind: What it has to be. Values are coerced where that is one of this package.
        value: What the client sent.

    Raises:
        ApiError: 400: it is not as `kind` has it; the first field that is wrong is named.
    """
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    lenient = issubclass(kind, Request)
    try:
        parsed = kind.model_validate(value, strict=not lenient)
    except ValidationError as error:
        raise _refuse(error) from None
    return parsed.normalized() if isinstance(parsed, Request) else value


def _refuse(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    # Of a union, the place in it says how the value was read: that is ours, not the client's.
    field = ".".join(
        str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()
    )
    field = field or first.get("ctx", {}).get("field", "")
    message = first["msg"]
    if first["type"] not in _COMPLETE:
        message = f"{message}, not {show(first['input'])}"
    return ApiError(400, f"{field}: {message}" if field else message, param=field or None)
