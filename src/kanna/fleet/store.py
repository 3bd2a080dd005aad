"""Devices, artefacts, rollouts and what happened: SQL is here and in schema.py.

Its statements are those that both SQLite and PostgreSQL take.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kanna.fleet import databases
from kanna.fleet.decision import Tally
from kanna.fleet.records import FAILED, PASSED, REFUSED, Assignment, FleetDevice, FleetRollout
from kanna.fleet.rings import Ring

_DEVICE = (
    "id, key_id, key_hash, expires, target, ring, added, wanted, number, reported, outcome, detail,"
    " selftest, seen"
)
_ROLLOUT = "id, model, target, rings, state, ring, soaked, reason, started, ended"
_EVENTS_KEPT = 10_000


class FleetStore:
    """A fleet as it is kept. One thread uses it at a time.

    Args:
        place: A file of SQLite, which is made when it does not exist, or the address of a
            database of PostgreSQL.

    Raises:
        KannaError: It is no database of a fleet, or cannot be written.
    """

    def __init__(self, place: str | Path) -> None:
        self._lock, self._depth = threading.RLock(), 0
        self._db = databases.opened(place)
        self.shared = self._db.shared

    def close(self) -> None:
        """Close it."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All that the block changes, or nothing of it."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._db.begin()
                yield
                if self._depth == 1:
                    self._db.commit()
            except BaseException:
                if self._depth == 1:
                    self._db.roll_back()
                raise
            finally:
                self._depth -= 1

    def leads(self) -> bool:
        """Whether who asks is the server that opens rings."""
        with self._lock:
            return self._db.leads()

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values)

    def next(self, counter: str, least: int = 1) -> int:
        """The next number of a counter, at least as large as it must be."""
        with self.transaction():
            self._rows(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value ="
                " CASE WHEN counters.value < ? THEN ? ELSE counters.value + 1 END",
                *(counter, least, least, least),
            )
            return int(self._rows("SELECT value FROM counters WHERE name = ?", counter)[0][0])

    # Keys of operators

    def add_key(self, key_id: str, key_hash: str, role: str) -> None:
        """Keep the hash of a key; `role` is `operator` or `viewer`."""
        self._rows("INSERT INTO keys VALUES (?, ?, ?)", key_id, key_hash, role)

    def roles(self) -> list[str]:
        """The roles that have a key."""
        return [role for (role,) in self._rows("SELECT role FROM keys")]

    def key(self, key_id: str) -> tuple[str, str] | None:
        """Hash and role of an operator's key."""
        rows = self._rows("SELECT hash, role FROM keys WHERE id = ?", key_id)
        return (rows[0][0], rows[0][1]) if rows else None

    # Devices

    def add_device(self, device: FleetDevice) -> None:
        """Keep a new device; raises TakenError where one has its name."""
        values = [getattr(device, name) for name in _DEVICE.split(", ")]
        self._rows(f"INSERT INTO devices ({_DEVICE}) VALUES ({_marks(values)})", *values)

    def set_key(self, device: str, key_id: str, key_hash: str, expires: float | None) -> None:
        """Give a device another key."""
        self._rows(
            "UPDATE devices SET key_id = ?, key_hash = ?, expires = ? WHERE id = ?",
            *(key_id, key_hash, expires, device),
        )  # fmt: skip

    def remove_device(self, device: str) -> None:
        """Forget a device, in rollouts too."""
        with self.transaction():
            self._rows("DELETE FROM assignments WHERE device = ?", device)
            self._rows("DELETE FROM devices WHERE id = ?", device)

    def device(self, name: str) -> FleetDevice | None:
        """The device of a name."""
        return next(iter(self._devices("WHERE id = ?", name)), None)

    def device_of_key(self, key_id: str) -> FleetDevice | None:
        """The device whose key has that open part."""
        return next(iter(self._devices("WHERE key_id = ?", key_id)), None)

    def devices(self, after: str = "", most: int = 1000) -> list[FleetDevice]:
        """Devices in the order of their names, those after one."""
        return self._devices("WHERE id > ? ORDER BY id LIMIT ?", after, most)

    def _devices(self, which: str, *values: Any) -> list[FleetDevice]:
        names = _DEVICE.split(", ")
        rows = self._rows(f"SELECT {_DEVICE} FROM devices {which}", *values)
        return [FleetDevice(**dict(zip(names, row, strict=True))) for row in rows]

    def places(self, target: str) -> list[tuple[str, int | None]]:
        """Names and rings of the devices of a target; of all where it is empty."""
        rows = self._rows(
            "SELECT id, ring FROM devices WHERE ? = '' OR target = ? ORDER BY id", target, target
        )
        return [(name, ring) for name, ring in rows]

    def want(self, device: str, wanted: str | None, number: int) -> None:
        """Tell a device what it should have."""
        self._rows("UPDATE devices SET wanted = ?, number = ? WHERE id = ?", wanted, number, device)

    def heard(self, device: str, reported: str | None) -> None:
        """Keep what a device has."""
        self._rows("UPDATE devices SET reported = ? WHERE id = ?", reported, device)

    def told(self, device: str, outcome: str, detail: str, selftest: str | None) -> None:
        """Keep what a device said of an instruction; a self-test of before stays without one."""
        self._rows(
            "UPDATE devices SET outcome = ?, detail = ?, selftest = COALESCE(?, selftest)"
            " WHERE id = ?",
            *(outcome, detail, selftest, device),
        )  # fmt: skip

    def saw(self, times: Iterable[tuple[str, float]]) -> None:
        """Keep when devices asked last."""
        with self.transaction():
            self._db.execute_many(
                "UPDATE devices SET seen = ? WHERE id = ?", [(at, name) for name, at in times]
            )

    def count_devices(self, since: float) -> tuple[int, int, int]:
        """How many there are, were seen since a time, and have what they should."""
        row = self._rows(
            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN seen >= ? THEN 1 ELSE 0 END), 0),"
            " COALESCE(SUM(CASE WHEN reported = wanted THEN 1 ELSE 0 END), 0) FROM devices",
            since,
        )[0]
        return int(row[0]), int(row[1]), int(row[2])

    # Artefacts

    def add_artefact(
        self, digest: str, sequence: int, name: str, size: int, texts: tuple[str, str | None]
    ) -> None:
        """Keep a manifest and its signature; raises TakenError for a taken sequence."""
        self._rows(
            "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(digest, sequence, name, size, *texts, time.time()),
        )  # fmt: skip

    def artefact(self, digest: str) -> tuple[str, str | None] | None:
        """Manifest and signature of a digest."""
        rows = self._rows("SELECT manifest, signature FROM models WHERE digest = ?", digest)
        return (rows[0][0], rows[0][1]) if rows else None

    def artefacts(self, most: int = 100) -> list[dict[str, Any]]:
        """What was published, the latest first."""
        rows = self._rows(
            "SELECT digest, sequence, name, bytes, signature IS NOT NULL, published"
            " FROM models ORDER BY sequence DESC LIMIT ?",
            most,
        )
        names = ("digest", "sequence", "name", "bytes", "signed", "published")
        return [dict(zip(names, row, strict=True)) | {"signed": bool(row[4])} for row in rows]

    # Rollouts

    def add_rollout(self, rollout: FleetRollout, rings: dict[str, int]) -> None:
        """Keep a new rollout, with the ring of every device that is in it."""
        texts = json.dumps([ring.to_dict() for ring in rollout.rings])
        now = time.time()
        with self.transaction():
            values = [getattr(rollout, name) for name in _ROLLOUT.split(", ")]
            values[3] = texts
            self._rows(f"INSERT INTO rollouts ({_ROLLOUT}) VALUES ({_marks(values)})", *values)
            self._db.execute_many(
                "INSERT INTO assignments VALUES (?, ?, ?, 'pending', 0, NULL, ?)",
                [(rollout.id, device, ring, now) for device, ring in rings.items()],
            )

    def rollout(self, number: int) -> FleetRollout | None:
        """The rollout of a number."""
        return next(iter(self._rollouts("WHERE id = ?", number)), None)

    def rollouts(self, most: int = 20) -> list[FleetRollout]:
        """The latest rollouts, the latest first."""
        return self._rollouts("ORDER BY id DESC LIMIT ?", most)

    def rollouts_in(self, states: Sequence[str]) -> list[FleetRollout]:
        """Rollouts in one of some states, the latest first."""
        return self._rollouts(f"WHERE state IN ({_marks(states)}) ORDER BY id DESC", *states)

    def _rollouts(self, which: str, *values: Any) -> list[FleetRollout]:
        names = _ROLLOUT.split(", ")
        made: list[FleetRollout] = []
        for row in self._rows(f"SELECT {_ROLLOUT} FROM rollouts {which}", *values):
            fields = dict(zip(names, row, strict=True))
            fields["rings"] = tuple(Ring(**one) for one in json.loads(fields["rings"]))
            made.append(FleetRollout(**fields))
        return made

    def set_rollout(self, rollout: FleetRollout) -> None:
        """Keep the state of a rollout."""
        self._rows(
            "UPDATE rollouts SET state = ?, ring = ?, soaked = ?, reason = ?, ended = ?"
            " WHERE id = ?",
            *(
                getattr(rollout, name)
                for name in ("state", "ring", "soaked", "reason", "ended", "id")
            ),
        )

    # Devices in rollouts

    def assignments(self, device: str) -> list[tuple[Assignment, str, int]]:
        """Rollouts of a device, the latest first, each with its state and its open ring."""
        rows = self._rows(
            "SELECT a.rollout, a.device, a.ring, a.status, a.number, a.earlier, r.state, r.ring"
            " FROM assignments a JOIN rollouts r ON r.id = a.rollout"
            " WHERE a.device = ? ORDER BY a.rollout DESC LIMIT 20",
            device,
        )
        return [(_assignment(row), row[6], row[7]) for row in rows]

    def assigned(self, rollout: int) -> list[Assignment]:
        """Every device of a rollout."""
        rows = self._rows(
            "SELECT rollout, device, ring, status, number, earlier FROM assignments"
            " WHERE rollout = ? ORDER BY device",
            rollout,
        )
        return [_assignment(row) for row in rows]

    def assign(self, rollout: int, device: str, ring: int) -> None:
        """Put a device into a rollout."""
        self._rows(
            "INSERT INTO assignments VALUES (?, ?, ?, 'pending', 0, NULL, ?)"
            " ON CONFLICT (rollout, device) DO NOTHING",
            *(rollout, device, ring, time.time()),
        )  # fmt: skip

    def set_assignment(self, one: Assignment) -> None:
        """Keep how far a device is in a rollout."""
        self._rows(
            "UPDATE assignments SET status = ?, number = ?, earlier = ?, changed = ?"
            " WHERE rollout = ? AND device = ?",
            *(one.status, one.number, one.earlier, time.time(), one.rollout, one.device),
        )  # fmt: skip

    def send_back(self, rollout: int, number: int) -> None:
        """Let devices that follow a rollout want what they had before it.

        Those that had nothing keep what passed there; those that follow a later rollout do so.
        """
        followed = (
            "SELECT a.{} FROM assignments a WHERE a.device = devices.id AND a.rollout = ?"
            " AND a.status <> 'pending' AND a.number = devices.number"
        )
        with self.transaction():
            self._rows(
                f"UPDATE devices SET wanted = ({followed.format('earlier')}), number = ?"
                f" WHERE EXISTS ({followed.format('device')})",
                *(rollout, number, rollout),
            )
            self._rows(
                "UPDATE assignments SET status = 'returned', changed = ? WHERE rollout = ?"
                " AND status IN ('offered', 'passed', 'unable')",
                *(time.time(), rollout),
            )

    def statuses(self, rollout: int) -> dict[tuple[int, str], int]:
        """How many devices of each ring have each status."""
        rows = self._rows(
            "SELECT ring, status, COUNT(*) FROM assignments WHERE rollout = ?"
            " GROUP BY ring, status",
            rollout,
        )
        return {(ring, status): int(count) for ring, status, count in rows}

    def tallies(self, rollout: FleetRollout, up: float) -> list[Tally]:
        """What the devices of each ring reported, or did not in time.

        Args:
            rollout: With its rings.
            up: Seconds for which devices could be heard.
        """
        counts = self.statuses(rollout.id)
        return [
            Tally(
                size=sum(count for (at, _), count in counts.items() if at == ring),
                passed=counts.get((ring, PASSED), 0),
                failed=counts.get((ring, FAILED), 0)
                + counts.get((ring, REFUSED), 0)
                + (self._silent(rollout.id, ring, one.silent) if 0 < one.silent <= up else 0),
            )
            for ring, one in enumerate(rollout.rings)
        ]

    def _silent(self, rollout: int, ring: int, seconds: float) -> int:
        """Devices that were given something and said nothing since, for that long."""
        since = time.time() - seconds
        rows = self._rows(
            "SELECT COUNT(*) FROM assignments a JOIN devices d ON d.id = a.device WHERE"
            " a.rollout = ? AND a.ring = ? AND a.status = 'offered' AND a.changed < ?"
            " AND COALESCE(d.seen, 0) < ?",
            *(rollout, ring, since, since),
        )
        return int(rows[0][0])

    # What happened

    def note(
        self, kind: str, detail: str = "", *, rollout: int | None = None, device: str | None = None
    ) -> None:
        """Keep an event; the oldest of very many go."""
        with self.transaction():
            number = self.next("event")
            self._rows(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                *(number, time.time(), kind, rollout, device, detail[:1000]),
            )  # fmt: skip
            self._rows("DELETE FROM events WHERE id <= ?", number - _EVENTS_KEPT)

    def events(self, most: int = 50) -> list[dict[str, Any]]:
        """What happened last, the latest first."""
        names = ("id", "at", "kind", "rollout", "device", "detail")
        rows = self._rows(
            "SELECT id, at, kind, rollout, device, detail FROM events ORDER BY id DESC LIMIT ?",
            most,
        )
        return [dict(zip(names, row, strict=True)) for row in rows]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _assignment(row: Sequence[Any]) -> Assignment:
    return Assignment(
        rollout=row[0], device=row[1], ring=row[2], status=row[3], number=row[4], earlier=row[5]
    )
