"""Many agents as processes on one machine: killed, cut off, and given a bad model."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import fleets
from helpers.agent_forks import Forks
from helpers.fleets import HereFleet

from kanna.fleet.controller import Controller

GOOD, BETTER, BAD = b"good 1" * 40_000, b"good 2" * 40_000, b"bad" * 80_000


class Watcher(threading.Thread):
    """Looks at every device again and again: what is current must be whole and good."""

    def __init__(self, here: HereFleet, names: list[str]) -> None:
        super().__init__(daemon=True)
        self.here, self.names = here, names
        self.looks, self.wrong, self.had = 0, list[str](), set[str]()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for name in self.names:
                try:
                    content = self.here.content(name)
                except FileNotFoundError:
                    # Between reading the link and the file it may be another one: then once more.
                    if name not in self.had:
                        continue
                    with suppress(FileNotFoundError):
                        content = self.here.content(name)
                        self.check(name, content)
                        continue
                    self.wrong.append(f"{name} has none")
                    continue
                self.check(name, content)

    def check(self, name: str, content: bytes) -> None:
        self.looks += 1
        self.had.add(name)
        if content not in (GOOD, BETTER):
            self.wrong.append(f"{name} has {content[:5]!r} of {len(content)}")


def among_kills(
    here: HereFleet, forks: Forks, rng: random.Random, pause: float, ended: Callable[[], bool]
) -> int:
    """Kill agents at random, and start them again, until something is so; how many were killed."""
    kills, end = 0, time.monotonic() + 300
    while not ended():
        assert time.monotonic() < end
        name = rng.choice(sorted(forks.running))
        forks.kill(name)
        if rng.random() < 0.3:
            here.weather.cuts.append(rng.randrange(240_000))
        time.sleep(pause * rng.random() * 2)
        forks.start(name)
        kills += 1
    return kills


def crowd(folder: Path, count: int, pause: float, seed: int) -> dict[str, int]:
    """A good model, a better one and a bad one for many agents that are killed all the time."""
    rng = random.Random(seed)
    with fleets.here(folder, poll=max(0.5, count / 25)) as here:
        controller = Controller(here.store)
        names = [f"d{n:03}" for n in range(count)]
        for name in names:
            (here.folder / f"{name}.key").write_text(controller.add_device(name))
        forks, watcher = Forks(here.url, here.folder, here.check), Watcher(here, names)
        watcher.start()
        kills = 0
        try:
            for name in names:
                forks.start(name)
            for content in (GOOD, BETTER):
                here.publish(content)
                number = here.rollout("5%:passes=90%", "50%:passes=90%", "100%:passes=100%")

                def done(number: int = number) -> bool:
                    one = here.store.rollout(number)
                    assert one is not None and one.state in ("running", "done"), one
                    return one.state == "done"

                kills += among_kills(here, forks, rng, pause, done)
                assert all(here.content(name) == content for name in names)
            here.publish(BAD)
            number = here.rollout("5%:passes=90%", "100%")

            def stopped() -> bool:
                one = here.store.rollout(number)
                return one is not None and one.state == "stopped"

            kills += among_kills(here, forks, rng, pause, stopped)
            time.sleep(1)
            tried = [a for a in here.store.assigned(number) if a.status != "pending"]
            assert tried and all(one.ring == 0 for one in tried)
        finally:
            forks.stop()
            watcher.ended.set()
            watcher.join(30)
        assert not watcher.wrong, watcher.wrong[:5]
        assert all(here.content(name) == BETTER for name in names)
        return {"kills": kills, "looks": watcher.looks, "tried": len(tried), "wrong": 0}


def test_agents_that_are_killed_get_the_better_one_and_never_the_bad(tmp_path: Path) -> None:
    counts = crowd(tmp_path / "fleet", 6, 0.05, 1)
    assert counts["kills"] >= 3 and counts["tried"] == 1


@pytest.mark.slow
def test_two_hundred_agents_that_are_killed(tmp_path: Path) -> None:
    counts = crowd(tmp_path / "fleet", 200, 0.1, 2)
    print(counts)
    assert counts["kills"] >= 100 and counts["tried"] <= 10


def kill_at_random(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill -9 an agent while models come; at any moment `current` names a whole good one.

    Returns how often it was killed before, within and after an update.
    """
    rng, counts = random.Random(seed), {"before": 0, "within": 0, "after": 0}
    contents = [b"good %d" % n + rng.randbytes(3 << 20) for n in range(3)]
    with fleets.here(folder) as here:
        here.add("pi")
        here.publish(contents[2])
        here.rollout()
        assert here.agent("pi")
        forks = Forks(here.url, here.folder, here.check)
        try:
            for number in range(kills):
                content = contents[number % 3]
                here.publish(content)
                rollout = here.rollout()
                forks.start("pi")
                time.sleep(0.1 * rng.random())
                forks.kill("pi")
                assert here.content("pi") in contents
                begun = [here.home("pi") / name for name in ("parts", "staging")]
                half = any(any(path.iterdir()) for path in begun)
                after = here.content("pi") == content
                counts["after" if after else "within" if half else "before"] += 1
                assert here.agent("pi"), "the next run ends what was begun"
                assert here.content("pi") == content
                here.until(rollout, "done")
                assert not [p for p in here.home("pi").rglob("*") if ".partial" in p.name]
        finally:
            forks.stop()
    return counts


def test_kill_9_of_an_agent_leaves_a_working_model(tmp_path: Path) -> None:
    assert sum(kill_at_random(tmp_path / "fleet", 8, 1).values()) == 8


@pytest.mark.slow
def test_kill_9_at_two_hundred_random_points(tmp_path: Path) -> None:
    counts = kill_at_random(tmp_path / "fleet", 200, 7)
    print(counts)
    assert counts["within"] >= 20
