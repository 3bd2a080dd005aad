"""Keys and usage in one SQLite file.

With a write-ahead log readers never wait, and a killed writer loses nothing. Every commit is
durable against the end of this process; against the end of the machine, up to the last
checkpoint.
"""

from __future__ import annotations

import hmac
import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kanna.errors import KannaError, UsageError
from kanna.serving.guard.keys import (
    DAY,
    PREFIX,
    SCOPES,
    ApiKey,
    KeyUsage,
    hash_secret,
    new_secret,
    today,
)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL, scopes TEXT NOT NULL,
  created REAL NOT NULL, expires REAL, revoked REAL, requests_per_minute INTEGER,
  tokens_per_minute INTEGER, tokens_per_day INTEGER, models TEXT
);
CREATE TABLE IF NOT EXISTS usage (
  day INTEGER NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
  requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  PRIMARY KEY (day, key, model)
) WITHOUT ROWID;
"""


class KeyStore:
    """One connection to the file, which is made when it does not exist.

    Raises:
        KannaError: The file is no database of keys, or cannot be written.
    """

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
        """Close the connection."""
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
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Args:
            name: Who it is for.
            scopes: What it allows.
            expires: In seconds since 1970; None: never.
            requests_per_minute: None: no limit.
            tokens_per_minute: None: no limit.
            tokens_per_day: None: no limit.
            models: Names of the models it may use; empty: all.

        Returns:
            The key and its text, which is stored nowhere.

        Raises:
            UsageError: A scope is unknown, or there is none.
        """
        scopes = tuple(dict.fromkeys(scopes))
        if unknown := [s for s in scopes if s not in SCOPES]:
            raise UsageError(f"no scope named {unknown[0]!r}", expected=", ".join(SCOPES))
        if not scopes:
            raise UsageError("a key without a scope", expected=", ".join(SCOPES))
        key_id, secret = new_secret()
        key = ApiKey(
            id=key_id,
            name=name,
            scopes=scopes,
            created=time.time(),
            expires=expires,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            models=tuple(models),
        )
        self._insert(key, hash_secret(secret))
        return key, f"{PREFIX}-{key_id}-{secret}"

    def _insert(self, key: ApiKey, secret_hash: bytes) -> None:
        row = (
            key.id,
            key.name,
            secret_hash,
            json.dumps(key.scopes),
            key.created,
            key.expires,
            key.revoked,
            key.requests_per_minute,
            key.tokens_per_minute,
            key.tokens_per_day,
            json.dumps(key.models),
        )
        self._db.execute("INSERT INTO keys VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)

    def list_keys(self) -> list[ApiKey]:
        """Every key, revoked and expired ones too, oldest first."""
        return [_key(row) for row in self._db.execute("SELECT * FROM keys ORDER BY created")]

    def revoke(self, id_or_name: str) -> list[ApiKey]:
        """Revoke the key of that id, or every one of that name; returns those that were valid.

        Raises:
            UsageError: There is none to revoke.
        """
        keys = [k for k in self.list_keys() if id_or_name in (k.id, k.name) and k.revoked is None]
        if not keys:
            raise UsageError(
                f"no key {id_or_name!r} to revoke", todo="`kanna keys list` shows them"
            )
        now = time.time()
        self._db.executemany(
            "UPDATE keys SET revoked = ? WHERE id = ?", [(now, k.id) for k in keys]
        )
        return keys

    def find(self, text: str) -> ApiKey | None:
        """The key of that text, revoked and expired ones too; the file is read each time."""
        prefix, _, remainder = text.partition("-")
        key_id, _, secret = remainder.partition("-")
        row = self._db.execute("SELECT * FROM keys WHERE id = ?", (key_id,)).fetchone()
        stored = row[2] if row else b"\0" * 32
        # Always one hash and one comparison in constant time, known id or not.
        same = hmac.compare_digest(stored, hash_secret(secret))
        return _key(row) if row and same and prefix == PREFIX else None

    # Usage

    def add(self, usages: list[KeyUsage], day: int) -> None:
        """Count requests of a day, in days since 1970; on return they are committed."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO usage VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"
                " requests = requests + excluded.requests,"
                " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens",
                [
                    (day, u.key, u.model, u.requests, u.prompt_tokens, u.completion_tokens)
                    for u in usages
                ],
            )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def tokens_of_day(self, day: int) -> dict[str, int]:
        """Tokens of a day, in days since 1970, by the id of the key."""
        rows = self._db.execute(
            "SELECT key, SUM(prompt_tokens + completion_tokens) FROM usage"
            " WHERE day = ? GROUP BY key",
            (day,),
        )
        return {key: int(total) for key, total in rows}

    def usage(self, days: int = 30) -> list[dict[str, Any]]:
        """Usage of the last days by day, key and model, latest first.

        Each has `day`, `key`, `model`, `requests`, `prompt_tokens` and `completion_tokens`.
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


def _key(row: tuple[Any, ...]) -> ApiKey:
    return ApiKey(
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
