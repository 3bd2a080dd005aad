"""Keys of a fleet: one per device, one for operators, one for those who only look.

As the gateway's: `kanna-ID-SECRET`, of which the SHA-256 of the secret is stored.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from pathlib import Path

from kanna.fleet.records import FleetDevice
from kanna.fleet.store import FleetStore
from kanna.serving.guard.keys import PREFIX, hash_secret, new_secret
from kanna.serving.guard.store import key_id_of

OPERATOR, VIEWER, DEVICE = "operator", "viewer", "device"
_NOTHING = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks.

    Attributes:
        role: `operator`, `viewer` or `device`.
        device: Where it is one.
    """

    role: str
    device: FleetDevice | None = None


def new_key() -> tuple[str, str, str]:
    """The open part of a new key, what is stored of its secret, and its text."""
    key_id, secret = new_secret()
    return key_id, hash_secret(secret).hex(), f"{PREFIX}-{key_id}-{secret}"


class KeyBook:
    """The keys of a store.

    Args:
        store: Has them.
    """

    def __init__(self, store: FleetStore) -> None:
        self._store, self._latest = store, 0.0

    def visitor(self, text: str) -> Visitor | None:
        """Who has a key; None for no key, a wrong one, and one that has expired."""
        key_id = key_id_of(text)[:64]
        device = self._store.device_of_key(key_id)
        kept = self._store.key(key_id) if device is None else (device.key_hash, DEVICE)
        prefix, _, remainder = text.partition("-")
        digest = hash_secret(remainder.partition("-")[2]).hex()
        # Always one hash and one comparison in constant time, known or not.
        same = hmac.compare_digest(digest, kept[0] if kept else _NOTHING)
        if not (same and kept and prefix == PREFIX):
            return None
        # A clock that is set back makes no key valid again.
        self._latest = max(self._latest, time.time())
        if device is not None and device.expires is not None and device.expires <= self._latest:
            return None
        return Visitor(role=kept[1], device=device)

    def make_first(self, folder: Path) -> list[Path]:
        """Make the keys of operators and of those who only look, where there are none yet.

        Returns:
            The files that hold them, for their owner only.
        """
        made: list[Path] = []
        with self._store.transaction():
            for role in (OPERATOR, VIEWER):
                if role in self._store.roles():
                    continue
                key_id, digest, text = new_key()
                path = folder / f"{role}.key"
                path.unlink(missing_ok=True)
                path.touch(mode=0o600)
                path.write_text(f"{text}\n", encoding="ascii")
                self._store.add_key(key_id, digest, role)
                made.append(path)
        return made
