"""The verb `keys`: API keys of the gateway."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna._util.arguments import several
from kanna._util.results import Result, ResultTable
from kanna.errors import KannaError, UsageError
from kanna.serving.guard.keys import ApiKey, expiry
from kanna.serving.guard.store import KeyStore
from kanna.serving.settings import open_store

__all__ = ["ACTIONS", "KeysResult", "keys"]

ACTIONS = ("create", "list", "revoke")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeysResult(Result):
    """Keys that were made, listed or revoked.

    Attributes:
        action: Which of the three.
        keys: The keys, without their secrets.
        text: What a client sends, of a key that was made: it is not stored.
    """

    action: str
    keys: Sequence[ApiKey]
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        listed = [key.to_dict() for key in self.keys]
        if self.action == "create":
            return {"key": self.text, **listed[0]}
        return {"revoked" if self.action == "revoke" else "keys": listed}

    def headline(self) -> str:
        """What was done; never the text of a key, which would stay in a notebook."""
        names = ", ".join(f"{key.name} ({key.id})" for key in self.keys)
        done = {"create": "made", "list": "keys:", "revoke": "revoked"}[self.action]
        return f"{done} {names or 'none'}"

    def tables(self) -> Sequence[ResultTable]:
        """A row per key."""
        rows = [
            (key.id, key.name, ", ".join(key.scopes), "revoked" if key.revoked else "")
            for key in self.keys
        ]
        return [ResultTable(columns=("id", "name", "scopes", ""), rows=rows)]


def keys(
    action: str = "list",
    which: str | None = None,
    *,
    name: str | None = None,
    scopes: str | Sequence[str] = (),
    models: str | Sequence[str] = (),
    days: float | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    tokens_per_day: int | None = None,
    state: str | Path | None = None,
) -> KeysResult:
    """Make, list and revoke API keys; a running gateway knows of it at once.

    Only a hash is stored: the text of a key is in the result of `create` alone.

    Args:
        action: `create`, `list` or `revoke`.
        which: Id or name of the key to revoke.
        name: Who a new key is for.
        scopes: `infer`, `metrics` or `admin`; none: `infer`.
        models: Models that the key may use; none: all.
        days: Days until it expires; None: never.
        requests_per_minute: Most requests in a minute.
        tokens_per_minute: Most tokens in a minute, read and generated.
        tokens_per_day: Most tokens in a day (UTC).
        state: Folder of keys and usage; None: $KANNA_STATE, or ~/.local/state/kanna.

    Raises:
        UsageError: An action, a name or a scope that there is not.
    """
    if action not in ACTIONS:
        raise UsageError(f"the action {action!r}", expected=", ".join(ACTIONS))
    if action == "create" and not name:
        raise UsageError("a key without a name", expected="--name, such as who it is for")
    if action == "revoke" and not (which or name):
        raise UsageError(
            "no key was named", expected="its id or its name", todo="`kanna keys list` shows them"
        )
    with closing(open_store(state)) as store, _usable(store):
        if action == "list":
            return KeysResult(action=action, keys=store.list_keys())
        if action == "revoke":
            return KeysResult(action=action, keys=store.revoke(str(which or name)))
        key, text = store.create(
            str(name),
            scopes=several(scopes) or ("infer",),
            expires=expiry(days),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            models=several(models),
        )
        return KeysResult(action=action, keys=[key], text=text)


@contextmanager
def _usable(store: KeyStore) -> Generator[None]:
    """Turn a file that is locked, or has no room, into an error of kanna's."""
    try:
        yield
    except sqlite3.Error as error:
        raise KannaError(
            f"{store.path} cannot be used: {error}; nothing was changed",
            todo="a running gateway can revoke a key without it: DELETE /admin/keys/ID",
        ) from error
