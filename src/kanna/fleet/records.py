"""What is kept of devices and rollouts."""

from __future__ import annotations

from dataclasses import dataclass

from kanna.fleet.rings import Ring

PENDING, OFFERED, PASSED = "pending", "offered", "passed"
FAILED, REFUSED, UNABLE, RETURNED = "failed", "refused", "unable", "returned"


@dataclass(slots=True, kw_only=True, frozen=True)
class FleetDevice:
    """A device as it is kept. Times are seconds since 1970.

    Attributes:
        id: Its name.
        key_id: The open part of its key.
        key_hash: SHA-256 of the secret part.
        expires: When its key ends to be valid; None: never.
        target: What it is, such as `raspberry-pi-5`.
        ring: The ring it is always in, counted from 1; None: its share decides.
        wanted: Digest of what it should have; None: nothing yet.
        number: Of the instruction that says so.
        reported: Digest of what it has.
        outcome: Of the last instruction it reported.
        detail: What it said of it.
        selftest: The JSON of its last self-test.
        seen: When it asked last.
    """

    id: str
    key_id: str
    key_hash: str
    expires: float | None
    target: str
    ring: int | None
    added: float
    wanted: str | None
    number: int
    reported: str | None
    outcome: str
    detail: str
    selftest: str | None
    seen: float | None


@dataclass(slots=True, kw_only=True, frozen=True)
class FleetRollout:
    """A rollout as it is kept.

    Attributes:
        id: Larger than that of every rollout before.
        model: Digest of what is rolled out.
        target: The devices it is for; empty: all.
        rings: In their order.
        state: `running`, `paused`, `stopped`, `done` or `rolled back`.
        ring: The last one that is open, counted from 0.
        soaked: Seconds for which it has held.
        reason: Why it stopped.
    """

    id: int
    model: str
    target: str
    rings: tuple[Ring, ...]
    state: str
    ring: int
    soaked: float
    reason: str
    started: float
    ended: float | None


@dataclass(slots=True, kw_only=True, frozen=True)
class Assignment:
    """A device in a rollout.

    Attributes:
        ring: Counted from 0.
        status: `pending`, `offered`, `passed`, `failed`, `refused`, `unable` or `returned`.
        number: Of the instruction it was given.
        earlier: Digest of what it had then.
    """

    rollout: int
    device: str
    ring: int
    status: str
    number: int
    earlier: str | None
