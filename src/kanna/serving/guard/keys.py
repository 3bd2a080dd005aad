"""API keys: what one allows, and how its text is made and hashed.

A key is `kanna-<id>-<secret>`. Only the SHA-256 of the secret is stored: it has 256 random bits, so
there is nothing to guess, and a slow hash would only slow each request down.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

SCOPES = ("infer", "metrics", "admin")
DAY = 86_400
"""Seconds."""
PREFIX = "kanna"


@dataclass(slots=True, kw_only=True, frozen=True)
class ApiKey:
    """One API key without its secret. Times are seconds since 1970; a limit of None is none.

    Attributes:
        id: The second part of its text.
        name: Who it is for.
        scopes: What it allows; `admin` allows all.
        expires: When it ends to be valid; None: never.
        revoked: When it was revoked; None: it was not.
        models: Names of the models it may use; empty: all.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None = None
    revoked: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    models: tuple[str, ...] = ()

    def valid(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def allows(self, scope: str) -> bool:
        """Whether it has the scope."""
        return scope in self.scopes or "admin" in self.scopes

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class KeyUsage:
    """What one request took, to be added to the usage of its key."""

    key: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    requests: int = 1


def new_secret() -> tuple[str, str]:
    """A random id and secret."""
    return secrets.token_hex(4), secrets.token_urlsafe(32)


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def expiry(days: float | None) -> float | None:
    """The time so many days from now, in seconds since 1970; None: never."""
    return time.time() + days * DAY if days else None


def today() -> int:
    """Days since 1970, UTC."""
    return int(time.time() // DAY)
