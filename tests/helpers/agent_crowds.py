"""Many agents that are killed while good models come, and a bad one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers import fleets
from helpers.agent_forks import Forks
from helpers.fleets import HereFleet
from helpers.lossy_networks import HERE, LossyProxy, Namespaces
from kanna.fleet.controller import Controller

GOOD, BETTER, BAD = b"good 1" * 40_000, b"good 2" * 40_000, b"bad" * 80_000


@dataclass
class Crowd:
    """What happens to a crowd of agents.

    Attributes:
        count: How many there are.
        pause: Seconds between two kills, on average.
        seed: Other chances for another number.
        proxy: Whether they reach the server over one that delays and cuts.
        spaces: A namespace for each, whose links lose packets and are pulled.
        seconds: That each model may take.
    """

    count: int
    pause: float
    seed: int
    proxy: bool = False
    spaces: Namespaces | None = None
    seconds: float = 300.0

    @property
    def names(self) -> list[str]:
        """Of the devices."""
        return [f"d{n:03}" for n in range(self.count)]


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
    here: HereFleet, forks: Forks, rng: random.Random, of: Crowd, ended: Callable[[], bool]
) -> int:
    """Kill agents at random, and start them again, until something is so; how many were killed."""
    kills, end = 0, time.monotonic() + of.seconds
    while not ended():
        assert time.monotonic() < end
        name = rng.choice(sorted(forks.running))
        forks.kill(name)
        if rng.random() < 0.3:
            here.weather.cuts.append(rng.randrange(240_000))
        if of.spaces is not None and rng.random() < 0.2:
            of.spaces.away(rng.choice(of.names), rng.random())
        time.sleep(of.pause * rng.random() * 2)
        forks.start(name)
        kills += 1
    return kills


def run(folder: Path, of: Crowd) -> dict[str, int]:
    """A good model, a better one and a bad one for many agents that are killed all the time."""
    rng, names = random.Random(of.seed), of.names
    host = HERE if of.spaces else "127.0.0.1"
    with fleets.here(folder, poll=max(0.5, of.count / 25), host=host) as here:
        controller, proxy = Controller(here.store), None
        if of.proxy:
            proxy = LossyProxy(int(here.url.rpartition(":")[2]), of.seed)
        for name in names:
            (here.folder / f"{name}.key").write_text(controller.add_device(name))
        url = f"http://127.0.0.1:{proxy.port}" if proxy else here.url
        forks = Forks(url, here.folder, here.check, spaces=of.spaces is not None)
        watcher = Watcher(here, names)
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
                    assert one is not None
                    assert one.state in ("running", "done"), here.store.events(5)
                    return one.state == "done"

                kills += among_kills(here, forks, rng, of, done)
                assert all(here.content(name) == content for name in names)
            here.publish(BAD)
            number = here.rollout("5%:passes=90%", "100%")

            def stopped() -> bool:
                one = here.store.rollout(number)
                return one is not None and one.state == "stopped"

            kills += among_kills(here, forks, rng, of, stopped)
            time.sleep(1)
            tried = [a for a in here.store.assigned(number) if a.status != "pending"]
            assert tried and all(one.ring == 0 for one in tried)
        finally:
            forks.stop()
            watcher.ended.set()
            watcher.join(30)
            if proxy:
                proxy.close()
        assert not watcher.wrong, watcher.wrong[:5]
        assert all(here.content(name) == BETTER for name in names)
        counts = {"kills": kills, "looks": watcher.looks, "tried": len(tried)}
        counts |= {"cut": proxy.cut, "passed": proxy.passed} if proxy else {}
        return counts | ({"outages": of.spaces.outages} if of.spaces else {})
