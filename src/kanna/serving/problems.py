"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """A request that is not answered as asked; `retry_after` in seconds says when to try again."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        return json.dumps({"error": self.fields()}, ensure_ascii=False).encode()

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            found.append((b"retry-after", str(max(1, round(self.retry_after + 0.4999))).encode()))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found


def busy(what: str, retry_after: float = 1) -> ApiError:
    return ApiError(503, what, "server_overloaded", "queue_full", retry_after=retry_after)


def engine_down(name: str, why: str = "") -> ApiError:
    """The engine died or is not up yet: nothing is wrong with the request."""
    said = f"the engine of {name!r} ended and is being started again; the request can be sent again"
    return ApiError(
        503, f"{said} ({why})" if why else said, "server_error", "engine_restarting", retry_after=1
    )


def no_memory(message: str) -> ApiError:
    return ApiError(503, message, "server_overloaded", "insufficient_memory", retry_after=5)


def unknown_model(name: str, known: list[str]) -> ApiError:
    return ApiError(
        404,
        f"no model named {name[:200]!r}; there are: {', '.join(known)}",
        code="model_not_found",
        param="model",
    )
