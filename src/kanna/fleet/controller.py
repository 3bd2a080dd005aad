"""The controller of rollouts: who gets what, when the next ring opens, what is taken back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from kanna.errors import UsageError
from kanna.fleet import access
from kanna.fleet.databases import TakenError
from kanna.fleet.decision import BACK, DONE, PAUSED, RUNNING, STOPPED, decide
from kanna.fleet.records import (
    FAILED,
    OFFERED,
    PASSED,
    PENDING,
    REFUSED,
    RETURNED,
    UNABLE,
    Assignment,
    FleetDevice,
    FleetRollout,
)
from kanna.fleet.rings import Ring, assign, check_rings
from kanna.fleet.store import FleetStore

_ACTIVE = (RUNNING, PAUSED)
_LIVE = (RUNNING, PAUSED, DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What a device should have.

    Attributes:
        number: Larger than that of every instruction before.
        wanted: Digest of an artefact; None: whatever it has.
    """

    number: int
    wanted: str | None


class Controller:
    """Rollouts of a store. One thread calls it at a time.

    What it decides, it decides within a transaction: another server may share the store.

    Args:
        store: Has devices, artefacts and rollouts.
        changed: Called with a rollout whose state is another one now.
    """

    def __init__(
        self, store: FleetStore, changed: Callable[[FleetRollout], None] = lambda _: None
    ) -> None:
        self.store, self._changed = store, changed
        self._up = 0.0

    # Devices

    def add_device(
        self, name: str, *, target: str = "", ring: int | None = None, days: float | None = None
    ) -> str:
        """Add a device, to the last ring of what is rolled out for it; returns its key.

        Raises:
            UsageError: One has its name.
        """
        key_id, digest, text = access.new_key()
        device = FleetDevice(
            id=name,
            key_id=key_id,
            key_hash=digest,
            expires=_expiry(days),
            target=target,
            ring=ring,
            added=time.time(),
            wanted=None,
            number=0,
            reported=None,
            outcome="",
            detail="",
            selftest=None,
            seen=None,
        )
        with self.store.transaction():
            try:
                self.store.add_device(device)
            except TakenError:
                raise UsageError(f"there is a device {name!r}", expected="another name") from None
            for rollout in self.store.rollouts_in(_LIVE):
                if rollout.target in ("", target):
                    self.store.assign(rollout.id, name, len(rollout.rings) - 1)
            self.store.note("device added", device=name)
        return text

    def new_key(self, name: str, days: float | None = None) -> str:
        """Another key for a device, whose old one ends to be valid; raises UsageError."""
        self._device(name)
        key_id, digest, text = access.new_key()
        self.store.set_key(name, key_id, digest, _expiry(days))
        self.store.note("key renewed", device=name)
        return text

    def remove_device(self, name: str) -> None:
        """Forget a device and its key; raises UsageError."""
        self._device(name)
        self.store.remove_device(name)
        self.store.note("device removed", device=name)

    def _device(self, name: str) -> FleetDevice:
        device = self.store.device(name)
        if device is None:
            raise UsageError(f"no device {name!r}", todo="`kanna fleet devices` lists them")
        return device

    # What devices ask and say

    def poll(
        self, device: FleetDevice, current: str | None, number: int, outcome: str
    ) -> Instruction:
        """What a device should have.

        Args:
            device: As it was read for this request.
            current: Digest of what it has.
            number: Of the last instruction it came to an end with.
            outcome: Of that; what a report said that was lost is known by it.
        """
        with self.store.transaction():
            if current != device.reported:
                self.store.heard(device.id, current)
            following = self.store.assignments(device.id)
            for one, state, open_ring in following:
                lost = one.status in (OFFERED, UNABLE) and outcome not in ("", one.status)
                if lost and one.number == number:
                    self._settle(one, outcome)
                if state not in _LIVE or (state == PAUSED and one.status == PENDING):
                    continue
                if one.ring > open_ring and one.status == PENDING:
                    continue  # until its turn comes, an older one that is done may be for it
                if one.status == PENDING:
                    return self._offer(one, device, current)
                break
            now = self.store.device(device.id) or device
            return Instruction(number=now.number, wanted=now.wanted)

    def _offer(self, one: Assignment, device: FleetDevice, current: str | None) -> Instruction:
        rollout = self.store.rollout(one.rollout)
        assert rollout is not None
        number = self._number()
        self.store.set_assignment(replace(one, status=OFFERED, number=number, earlier=current))
        self.store.want(device.id, rollout.model, number)
        return Instruction(number=number, wanted=rollout.model)

    def _number(self) -> int:
        """Larger than every number before, also where the store is a copy of an earlier day's."""
        return self.store.next("instruction", int(time.time() * 1000))

    def report(
        self, device: FleetDevice, number: int, outcome: str, detail: str, selftest: str | None
    ) -> None:
        """Take what a device says of an instruction.

        Args:
            device: Who says it.
            number: Of the instruction.
            outcome: `passed`, `failed`, `refused` or `unable`.
            detail: Why.
            selftest: The JSON of its self-test.
        """
        with self.store.transaction():
            self.store.told(device.id, outcome, detail, selftest)
            one = next(
                (a for a, _, _ in self.store.assignments(device.id) if a.number == number), None
            )
            if outcome != PASSED:
                where = one.rollout if one else None
                self.store.note(outcome, detail, rollout=where, device=device.id)
            if one is not None and number:
                self._settle(one, outcome)

    def _settle(self, one: Assignment, outcome: str) -> None:
        """Keep how an instruction ended, and stop what fails too often at once."""
        if one.status == RETURNED:
            return  # it came too late to change anything
        self.store.set_assignment(replace(one, status=outcome))
        if outcome in (FAILED, REFUSED):
            rollout = self.store.rollout(one.rollout)
            if rollout is not None and rollout.state in _LIVE:
                self._decide(rollout, 0.0)

    # Rollouts

    def start(self, artefact: str, rings: tuple[Ring, ...], target: str = "") -> FleetRollout:
        """Begin a rollout.

        Raises:
            UsageError: There is no such artefact, no device for it, or its devices are in a
                rollout that is under way.
        """
        check_rings(rings)
        with self.store.transaction():
            if self.store.artefact(artefact) is None:
                raise UsageError(f"nothing of {artefact} was published", todo="kanna fleet publish")
            for other in self.store.rollouts_in(_ACTIVE):
                if not target or other.target in ("", target):
                    raise UsageError(
                        f"rollout {other.id} is {other.state}, and has devices of this one",
                        todo=f"wait for it, or kanna fleet rollback {other.id}",
                    )
            places = self.store.places(target)
            if not places:
                raise UsageError("no device for it", todo="kanna fleet add-device NAME")
            number = self.store.next("rollout")
            rollout = FleetRollout(
                id=number,
                model=artefact,
                target=target,
                rings=rings,
                state=RUNNING,
                ring=0,
                soaked=0.0,
                reason="",
                started=time.time(),
                ended=None,
            )
            self.store.add_rollout(rollout, assign(places, rings, str(number)))
            self.store.note(RUNNING, f"{artefact} to {len(places)} devices", rollout=number)
        return rollout

    def tick(self, elapsed: float) -> None:
        """Open the next rings of what holds.

        Args:
            elapsed: Seconds since the last time, of a clock that nobody sets.
        """
        self._up += elapsed
        with self.store.transaction():
            for rollout in self.store.rollouts_in((RUNNING,)):
                self._decide(rollout, elapsed)

    def _decide(self, rollout: FleetRollout, elapsed: float) -> None:
        tallies = self.store.tallies(rollout, self._up)
        decision = decide(
            rollout.rings, tallies, ring=rollout.ring, soaked=rollout.soaked, elapsed=elapsed
        )
        if decision.state == STOPPED:
            self._take_back(rollout, STOPPED, decision.reason)
            return
        if rollout.state != RUNNING:
            return
        after = replace(
            rollout,
            state=decision.state,
            ring=decision.ring,
            soaked=decision.soaked,
            ended=time.time() if decision.state == DONE else None,
        )
        if after == rollout:
            return
        self.store.set_rollout(after)
        if after.state == DONE:
            self.store.note(DONE, rollout=rollout.id)
        elif after.ring != rollout.ring:
            self.store.note("ring opened", f"ring {after.ring + 1}", rollout=rollout.id)
        self._changed(after)

    def pause(self, number: int) -> FleetRollout:
        """Offer it to nobody more until it is resumed; raises UsageError."""
        return self._set(number, (RUNNING,), PAUSED)

    def resume(self, number: int) -> FleetRollout:
        """Go on with what was paused; raises UsageError."""
        return self._set(number, (PAUSED,), RUNNING)

    def rollback(self, number: int, reason: str = "asked for by an operator") -> FleetRollout:
        """End a rollout and send its devices back to what they had before; raises UsageError."""
        with self.store.transaction():
            return self._take_back(self._rollout(number, _LIVE, BACK), BACK, reason)

    def _set(self, number: int, states: tuple[str, ...], state: str) -> FleetRollout:
        with self.store.transaction():
            rollout = replace(self._rollout(number, states, state), state=state)
            self.store.set_rollout(rollout)
            self.store.note(state, "by an operator", rollout=number)
        self._changed(rollout)
        return rollout

    def _rollout(self, number: int, states: tuple[str, ...], wanted: str) -> FleetRollout:
        rollout = self.store.rollout(number)
        if rollout is None:
            raise UsageError(f"no rollout {number}", todo="`kanna fleet status` lists them")
        if rollout.state not in states:
            raise UsageError(
                f"rollout {number} is {rollout.state}, and cannot be {wanted}",
                expected=f"one that is {' or '.join(states)}",
            )
        return rollout

    def _take_back(self, rollout: FleetRollout, state: str, reason: str) -> FleetRollout:
        """Give the devices that have an artefact, or are about to, what they had before."""
        after = replace(rollout, state=state, reason=reason, ended=time.time())
        self.store.set_rollout(after)
        self.store.send_back(rollout.id, self._number())
        self.store.note(state, reason, rollout=rollout.id)
        self._changed(after)
        return after

    def describe(self, rollout: FleetRollout) -> dict[str, Any]:
        """A rollout for JSON, with how many devices of each ring are how far."""
        counts = self.store.statuses(rollout.id)
        rings = [
            ring.to_dict()
            | {
                "devices": sum(n for (at, _), n in counts.items() if at == number),
                "statuses": {status: n for (at, status), n in counts.items() if at == number},
                "open": number <= rollout.ring,
            }
            for number, ring in enumerate(rollout.rings)
        ]
        return asdict(rollout) | {"ring": rollout.ring + 1, "rings": rings}


def _expiry(days: float | None) -> float | None:
    return time.time() + days * 86_400 if days else None
