"""Errors of the server, as JSON that says what was found and what to do."""

from __future__ import annotations

from kanna.errors import KannaError
from kanna.serving.problems import ApiError


def bad(message: str, status: int = 400, code: str = "bad_request") -> ApiError:
    """A request that is wrong."""
    return ApiError(status, message, code=code)


def of(error: KannaError, status: int = 409) -> ApiError:
    """What an error of ours is to who asked."""
    expected = f"; expected: {error.expected}" if error.expected else ""
    return ApiError(status, f"{error.found}{expected}", code="refused", todo=error.todo)


def no_key() -> ApiError:
    """401: no valid key."""
    message = "no valid key: send `Authorization: Bearer kanna-…`; it is wrong, expired or renewed"
    return ApiError(401, message, "permission_error", "invalid_key")


def wrong_role(role: str) -> ApiError:
    """403: the key is for something else."""
    return ApiError(403, f"the key is one of a {role}", "permission_error", "wrong_role")
