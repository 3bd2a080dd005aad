"""Devices of a fleet without a network, and what they do with a bad model."""

from __future__ import annotations

import random
from collections.abc import Callable

from kanna.fleet.controller import Controller
from kanna.fleet.records import FleetDevice, FleetRollout
from kanna.fleet.rings import Ring, parse_ring
from kanna.fleet.store import FleetStore

GOOD, BETTER, BAD = "a" * 64, "b" * 64, "c" * 64
ALL = (Ring(percent=100),)


class Crowd:
    """Devices that do what they are told, and fail where a function says so."""

    def __init__(self, store: FleetStore, count: int) -> None:
        self.store, self.controller = store, Controller(store)
        self.names = [f"d{n:03}" for n in range(count)]
        self.current: dict[str, str | None] = dict.fromkeys(self.names)
        self.good: dict[str, str | None] = dict.fromkeys(self.names)
        self.settled: dict[str, tuple[int, str]] = dict.fromkeys(self.names, (0, ""))
        for sequence, digest in enumerate((GOOD, BETTER, BAD), 1):
            store.add_artefact(digest, sequence, digest[:1], 1, ("{}", None))
        for name in self.names:
            self.controller.add_device(name)

    def device(self, name: str) -> FleetDevice:
        made = self.store.device(name)
        assert made is not None
        return made

    def ask(
        self, name: str, fails: Callable[[str, str], bool] = lambda _, __: False, lost: bool = False
    ) -> None:
        """A device asks, follows and reports; `lost`: the report does not arrive."""
        number, outcome = self.settled[name]
        told = self.controller.poll(self.device(name), self.current[name], number, outcome)
        if told.wanted is None or told.number == number:
            return
        assert told.number > number
        outcome = "passed"
        if told.wanted != self.current[name]:
            if told.wanted != self.good[name] and fails(name, told.wanted):
                outcome = "failed"
            else:
                self.good[name], self.current[name] = self.current[name], told.wanted
        self.settled[name] = (told.number, outcome)
        if not lost:
            self.controller.report(self.device(name), told.number, outcome, "", None)

    def all_ask(self, fails: Callable[[str, str], bool] = lambda _, __: False) -> None:
        for name in self.names:
            self.ask(name, fails)
        self.controller.tick(1.0)

    def start(self, digest: str, *rings: str) -> int:
        return self.controller.start(digest, tuple(map(parse_ring, rings)) or ALL).id

    def rollout(self, number: int) -> FleetRollout:
        made = self.store.rollout(number)
        assert made is not None
        return made

    def have(self, digest: str | None) -> int:
        return sum(1 for one in self.current.values() if one == digest)


def bad_rollout(store: FleetStore, rng: random.Random) -> None:
    """A bad model goes out to some devices, in some rings; it must not leave the first.

    Devices come and go, and reports are lost; each has the good model at any moment.
    """
    crowd = Crowd(store, rng.randint(2, 120))
    crowd.start(GOOD)
    crowd.all_ask()
    share = rng.choice([1, 2, 5, 10, 25])
    number = crowd.start(BAD, f"{share}%:passes={rng.choice([100, 60, 1])}%", "50%", "100%")
    first = {one.device for one in store.assigned(number) if one.ring == 0}
    for _ in range(30):
        present = rng.sample(crowd.names, rng.randint(0, len(crowd.names)))
        for name in present:
            crowd.ask(name, lambda _, digest: digest == BAD, lost=rng.random() < 0.3)
        crowd.controller.tick(rng.random() * 100)
        ever = {one.device for one in store.assigned(number) if one.status != "pending"}
        assert ever <= first, "it left the first ring"
        assert all(current == GOOD for current in crowd.current.values())
    for _ in range(2):
        crowd.all_ask(lambda _, digest: digest == BAD)
    assert crowd.rollout(number).state == "stopped" and crowd.rollout(number).ring == 0
