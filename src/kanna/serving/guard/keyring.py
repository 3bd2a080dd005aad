"""Keys as requests need them: looked up off the event loop, and known where the file is not.

A file that is locked, slow or on a full disk stops no request of a key that was read a moment ago,
and lets no key pass that was revoked here: a revocation holds in memory first, and is written until
that succeeds.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from kanna.errors import UsageError
from kanna.serving.guard.keys import ApiKey
from kanna.serving.guard.store import KeyStore, StoredKey, key_id_of, matching
from kanna.serving.problems import ApiError

_PATIENCE = 0.5
"""Seconds a request waits for the file before it goes on with what is known."""
_TRUSTED = 60.0
"""Seconds for which a key that was read counts while the file cannot be read."""
_RETRY = 2.0
_MOST_KNOWN = 100_000


@dataclass(slots=True)
class _KnownKey:
    stored: StoredKey
    read: float


class KeyRing:
    """The keys of a store.

    Args:
        store: Has them.
    """

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._known: dict[str, _KnownKey] = {}
        self._revoked: dict[str, float] = {}
        self._late: asyncio.Future[StoredKey | None] | None = None
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def find(self, text: str) -> ApiKey | None:
        """The key of that text, revoked and expired ones too.

        Raises:
            ApiError: 503: the file cannot be read, and has not been for a while.
        """
        key_id = key_id_of(text)[:64]
        try:
            stored = await self._look_up(key_id)
        except (sqlite3.Error, asyncio.TimeoutError):
            known = self._known.get(key_id)
            if known is None or time.monotonic() - known.read > _TRUSTED:
                raise ApiError(
                    503,
                    "keys cannot be read at the moment; the request can be sent again",
                    "server_error",
                    "keys_unavailable",
                    retry_after=1,
                ) from None
            stored = known.stored
        key = matching(text, stored)
        if key is not None and key.revoked is None and key.id in self._revoked:
            return replace(key, revoked=self._revoked[key.id])
        return key

    async def _look_up(self, key_id: str) -> StoredKey | None:
        """What the file has; raises sqlite3.Error, or TimeoutError while it does not answer."""
        if self._late is not None and not self._late.done():
            raise asyncio.TimeoutError  # an earlier request waits for the same
        reading = asyncio.get_running_loop().run_in_executor(
            self._thread, self.store.look_up, key_id
        )
        done, _ = await asyncio.wait({reading}, timeout=_PATIENCE)
        if not done:
            self._late = reading
            raise asyncio.TimeoutError
        stored = reading.result()
        if stored is None:
            self._known.pop(key_id, None)
        elif key_id in self._known or len(self._known) < _MOST_KNOWN:
            self._known[key_id] = _KnownKey(stored, time.monotonic())
        return stored

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key from now on; whether that is written, too.

        What is not written yet is tried again until it is.

        Raises:
            UsageError: There is no such key, or it is revoked already.
        """
        self._revoked.setdefault(key_id, time.time())
        try:
            await asyncio.to_thread(self._write, key_id)
        except UsageError:
            self._revoked.pop(key_id, None)  # the file knows better
            raise
        except sqlite3.Error as error:
            _warn(f"key {key_id} is revoked in this gateway, which cannot write it: {error}")
            if key_id not in self._writing:
                self._writing[key_id] = asyncio.create_task(self._write_later(key_id))
            return False
        return True

    def _write(self, key_id: str) -> None:
        """Revoke the key of an id, and none of that name."""
        if not any(key.id == key_id for key in self.store.list_keys()):
            raise UsageError(f"no key {key_id!r}")
        self.store.revoke(key_id)

    async def _write_later(self, key_id: str) -> None:
        while True:
            await asyncio.sleep(_RETRY)
            try:
                await asyncio.to_thread(self._write, key_id)
            except UsageError:
                break  # somebody else wrote it
            except sqlite3.Error:
                continue
            _warn(f"the revocation of key {key_id} is written now")
            break
        self._writing.pop(key_id, None)

    async def close(self) -> None:
        """End what is under way."""
        for key_id, task in list(self._writing.items()):
            task.cancel()
            _warn(f"the revocation of key {key_id} was never written: revoke it again")
        self._thread.shutdown(wait=False, cancel_futures=True)


def _warn(text: str) -> None:
    print(f"kanna: {text}", file=sys.stderr, flush=True)
