"""Many agents as processes on one machine: killed, cut off, and given a bad model."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from helpers import agent_crowds, fleets, lossy_networks
from helpers.agent_crowds import Crowd
from helpers.agent_forks import Forks


def test_agents_that_are_killed_get_the_better_one_and_never_the_bad(tmp_path: Path) -> None:
    """Over connections that are late and cut."""
    counts = agent_crowds.run(tmp_path / "fleet", Crowd(6, 0.05, 1, proxy=True))
    assert counts["kills"] >= 3 and counts["tried"] == 1
    assert counts["cut"] >= 3 and counts["passed"] >= 10


@pytest.mark.slow
def test_two_hundred_agents_that_are_killed(tmp_path: Path) -> None:
    counts = agent_crowds.run(tmp_path / "fleet", Crowd(200, 0.1, 2))
    print(counts)
    assert counts["kills"] >= 100 and counts["tried"] <= 10


@pytest.mark.fleet
def test_two_hundred_agents_in_namespaces_that_lose_packets(tmp_path: Path) -> None:
    """A twentieth of the packets each way is lost, plugs are pulled, agents are killed."""
    of = Crowd(200, 0.1, 3, seconds=900)
    with lossy_networks.namespaces(of.names, 0.05) as of.spaces:
        counts = agent_crowds.run(tmp_path / "fleet", of)
    print(counts)
    assert counts["kills"] >= 100 and counts["outages"] >= 20 and counts["tried"] <= 10


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
