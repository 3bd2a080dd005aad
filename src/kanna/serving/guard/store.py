"""Keys and usage in one SQLite file.

With a write-ahead log readers never wait, and a killed writer loses nothing. Every commit is
durable against the end of this process; against the end of the machine, up to the last
checkpoint.
"""

from __future__ import annotations

import hmac
import json
import sqlite3
import threading
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

StoredKey = tuple[ApiKey, bytes]
"""A key and the hash of its secret."""
_PATIENCE, _HASTE = 2.0, 0.2
"""Seconds to wait for a lock: for what people do with keys, and for what requests wait for."""
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


class _Connection:
    """A connection that one thread uses at a time, and how long it waits for a lock of others."""

    def __init__(self, path: Path, wait: float) -> None:
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The result of a statement."""
        with self.lock:
            return self.db.execute(query, values).fetchall()


class KeyStore:
    """The file, which is made when it does not exist.

    What a request needs, what the ledger writes and what people do with keys have a connection
    each, so that none waits for a lock on which another waits.

    Raises:
        KannaError: The file is no database of keys, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            self._keys = _Connection(path, _PATIENCE)
            self._keys.db.execute("PRAGMA journal_mode=WAL")
            self._keys.db.executescript(_SCHEMA)
            self._lookups, self._ledger = (_Connection(path, _HASTE) for _ in range(2))
            for connection in (self._keys, self._lookups, self._ledger):
                connection.db.execute("PRAGMA synchronous=NORMAL")
            self._db = self._ledger.db
        except (sqlite3.Error, OSError) as error:
            raise KannaError(
                f"{path} cannot be used for keys: {error}", todo="give another file"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        for connection in (self._keys, self._lookups, self._ledger):
            connection.db.close()

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
        self._keys.rows("INSERT INTO keys VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)

    def list_keys(self) -> list[ApiKey]:
        """Every key, revoked and expired ones too, oldest first."""
        return [_key(row) for row in self._keys.rows("SELECT * FROM keys ORDER BY created")]

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
        for key in keys:
            self._keys.rows("UPDATE keys SET revoked = ? WHERE id = ?", (now, key.id))
        return keys

    def find(self, text: str) -> ApiKey | None:
        """The key of that text, revoked and expired ones too; the file is read each time."""
        return matching(text, self.look_up(key_id_of(text)))

    def look_up(self, key_id: str) -> StoredKey | None:
        """The key of an id with its hash; raises sqlite3.Error where the file cannot be read."""
        rows = self._lookups.rows("SELECT * FROM keys WHERE id = ?", (key_id,))
        return (_key(rows[0]), rows[0][2]) if rows else None

    # Usage

    def add(self, usages: list[KeyUsage], day: int) -> None:
        """Count requests of a day, in days since 1970; on return they are committed."""
        with self._ledger.lock:
            self._add(self._db, usages, day)

    def _add(self, db: sqlite3.Connection, usages: list[KeyUsage], day: int) -> None:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.executemany(
                "INSERT INTO usage VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"
                " requests = requests + excluded.requests,"
                " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                " completion_tokens = completion_tokens + excluded.completion_tokens",
                [
                    (day, u.key, u.model, u.requests, u.prompt_tokens, u.completion_tokens)
                    for u in usages
                ],
            )
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def tokens_of_day(self, day: int) -> dict[str, int]:
        """Tokens of a day, in days since 1970, by the id of the key."""
        rows = self._keys.rows(
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
        rows = self._keys.rows(
            "SELECT * FROM usage WHERE day > ? ORDER BY day DESC, key, model", (today() - days,)
        )
        return [
            dict(zip(names, row, strict=True))
            | {"day": time.strftime("%Y-%m-%d", time.gmtime(row[0] * DAY))}
            for row in rows
        ]


def key_id_of(text: str) -> str:
    """The id in the text of a key."""
    return text.partition("-")[2].partition("-")[0]


def matching(text: str, stored: StoredKey | None) -> ApiKey | None:
    """The stored key, where the secret in the text is its own."""
    prefix, _, remainder = text.partition("-")
    secret = remainder.partition("-")[2]
    key, digest = stored or (None, b"\0" * 32)
    # Always one hash and one comparison in constant time, known id or not.
    same = hmac.compare_digest(digest, hash_secret(secret))
    return key if same and prefix == PREFIX else None


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
