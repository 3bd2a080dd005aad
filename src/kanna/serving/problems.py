"""Errors in the shape that OpenAI's clients understand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: Of HTTP.
        message: For people.
        type: The kind of error, in OpenAI's words.
        code: The error, for programs.
        param: The field of the request that is wrong.
        retry_after: Seconds after which the request may be sent again.
        todo: What whoever asked can do, where the message does not say it.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    todo: str = ""

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        """The JSON of the answer."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.todo:
            error["todo"] = self.todo
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after + 0.4999)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def overloaded(message: str, retry_after: float = 1) -> ApiError:
    """503: more is asked than may wait."""
    return ApiError(503, message, "server_overloaded", "queue_full", retry_after=retry_after)


def engine_down(name: str, reason: str = "") -> ApiError:
    """503: the engine ended or is not up yet, and nothing is wrong with the request."""
    message = (
        f"the engine of {name!r} ended and is being started again; the request can be sent again"
    )
    if reason:
        message = f"{message} ({reason})"
    return ApiError(503, message, "server_error", "engine_restarting", retry_after=1)


def no_memory(message: str) -> ApiError:
    """503: a model does not fit with those in use."""
    return ApiError(503, message, "server_overloaded", "insufficient_memory", retry_after=5)


def unknown_model(name: str, known: list[str]) -> ApiError:
    """404: no model has that name."""
    return ApiError(
        404,
        f"no model named {name[:200]!r}; there are: {', '.join(known)}",
        code="model_not_found",
        param="model",
    )
