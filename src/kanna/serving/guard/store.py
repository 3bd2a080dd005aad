"""Keys and usage in one SQLite file (write-ahead log: readers never wait, and a killed writer loses nothing).

A key is `kanna-<id>-<secret>`. Only the SHA-256 of the secret is kept; with 256 random bits in it there is nothing to
guess, so a slow hash would only slow each request down. Every commit is durable against the end of this process;
against the end of the machine, up to the last checkpoint.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, UsageError

SCOPES = ("infer", "metrics", "admin")
DAY = 86_400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL, scopes TEXT NOT NULL, created REAL NOT NULL,
  expires REAL, revoked REAL, requests_per_minute INTEGER, tokens_per_minute INTEGER, tokens_per_day INTEGER,
  models TEXT
);
CREATE TABLE IF NOT EXISTS usage (
  day INTEGER NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
  requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  PRIMARY KEY (day, key, model)
) WITHOUT ROWID;
"""


@dataclass(slots=True, kw_only=True, frozen=True)
class Key:
    """One API key without its secret. Times in seconds since 1970; a limit of None is none.

    Attributes:
        models: Names it may use; empty: all.
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
        return self.revoked is None and (self.expires is None or now < self.expires)

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Use:
    """What one request took."""

    key: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    requests: int = 1


def after(days: float | None) -> float | None:
    """The time so many days from now, in seconds since 1970; None: never."""
    return time.time() + days * DAY if days else None


class Store:
    """One connection. Raises KannaError when the file is no database of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            self._db = sqlite3.connect(
                path, timeout=10, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise KannaError(
                f"{path} cannot be used for keys: {error}", todo="give another file"
            ) from error

    def close(self) -> None:
        self._db.close()

    # Keys

    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str] = ("infer",),
        expires: float | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        models: Iterable[str] = (),
    ) -> tuple[Key, str]:
        """A new key and its text, which is shown this once and kept nowhere."""
        scopes = tuple(dict.fromkeys(scopes))
        if wrong := [s for s in scopes if s not in SCOPES]:
            raise UsageError(f"no scope named {wrong[0]!r}", expected=", ".join(SCOPES))
        if not scopes:
            raise UsageError("a key without a scope", expected=", ".join(SCOPES))
        identity, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        key = Key(
            id=identity,
            name=name,
            scopes=scopes,
            created=time.time(),
            expires=expires,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            models=tuple(models),
        )
        self._db.execute(
            "INSERT INTO keys VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                key.id,
                name,
                _hash(secret),
                json.dumps(key.scopes),
                key.created,
                expires,
                None,
                requests_per_minute,
                tokens_per_minute,
                tokens_per_day,
                json.dumps(key.models),
            ),
        )
        return key, f"kanna-{identity}-{secret}"

    def listed(self) -> list[Key]:
        return [_key(row) for row in self._db.execute("SELECT * FROM keys ORDER BY created")]

    def revoke(self, which: str) -> list[Key]:
        """Revoke the key of that id, or every one of that name.

        Raises UsageError when there is none.
        """
        found = [k for k in self.listed() if which in (k.id, k.name) and k.revoked is None]
        if not found:
            raise UsageError(f"no key {which!r} to revoke", todo="`kanna keys list` shows them")
        now = time.time()
        self._db.executemany(
            "UPDATE keys SET revoked = ? WHERE id = ?", [(now, k.id) for k in found]
        )
        return found

    def find(self, text: str) -> Key | None:
        """The key of that text, revoked and expired ones too.

        None when there is none. Reads the file each time.
        """
        kind, _, rest = text.partition("-")
        identity, _, secret = rest.partition("-")
        row = self._db.execute("SELECT * FROM keys WHERE id = ?", (identity,)).fetchone()
        known = row[2] if row else b"\0" * 32
        # Always one hash and one comparison in constant time, known id or not.
        same = hmac.compare_digest(known, _hash(secret))
        return _key(row) if row and same and kind == "kanna" else None

    # Usage

    def add(self, uses: list[Use], day: int) -> None:
        """Count requests; on return they are committed."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO usage VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"
                " requests = requests + excluded.requests,"
                " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens",
                [
                    (day, u.key, u.model, u.requests, u.prompt_tokens, u.completion_tokens)
                    for u in uses
                ],
            )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def used(self, day: int) -> dict[str, int]:
        """Tokens of a day by key."""
        rows = self._db.execute(
            "SELECT key, SUM(prompt_tokens + completion_tokens) FROM usage WHERE day = ? GROUP BY key",
            (day,),
        )
        return {key: int(total) for key, total in rows}

    def usage(self, days: int = 30) -> list[dict[str, Any]]:
        """Rows of the last days, latest first.

        Day, key, model, requests, prompt_tokens, completion_tokens.
        """
        names = ("day", "key", "model", "requests", "prompt_tokens", "completion_tokens")
        rows = self._db.execute(
            "SELECT * FROM usage WHERE day > ? ORDER BY day DESC, key, model", (today() - days,)
        )
        return [
            dict(zip(names, row, strict=True))
            | {"day": time.strftime("%Y-%m-%d", time.gmtime(row[0] * DAY))}
            for row in rows
        ]


def today() -> int:
    """Days since 1970, UTC."""
    return int(time.time() // DAY)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _key(row: tuple[Any, ...]) -> Key:
    return Key(
        id=row[0],
        name=row[1],
        scopes=tuple(json.loads(row[3])),
        created=row[4],
        expires=row[5],
        revoked=row[6],
        requests_per_minute=row[7],
        tokens_per_minute=row[8],
        tokens_per_day=row[9],
        models=tuple(json.loads(row[10] or "[]")),
    )
