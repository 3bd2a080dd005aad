"""Rollouts without a network: who gets what and when, on a store of each kind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.fleet_crowds import ALL, BAD, BETTER, GOOD, Crowd, bad_rollout

from kanna.errors import UsageError
from kanna.fleet.store import FleetStore


@pytest.fixture
def store(tmp_path: Path, new_place: Callable[[Path], str | Path]) -> Iterator[FleetStore]:
    with closing(FleetStore(new_place(tmp_path))) as made:
        yield made


@pytest.fixture
def crowd(store: FleetStore) -> Crowd:
    """Forty devices that all have the good one."""
    made = Crowd(store, 40)
    number = made.start(GOOD)
    made.all_ask()
    assert made.rollout(number).state == "done" and made.have(GOOD) == 40
    return made


def test_rings_open_one_after_another(crowd: Crowd) -> None:
    number = crowd.start(BETTER, "5%:soak=3s", "50%", "100%")
    crowd.all_ask()
    assert crowd.have(BETTER) == 2
    crowd.controller.tick(1.0)
    crowd.all_ask()
    assert crowd.have(BETTER) == 2 and crowd.rollout(number).ring == 1
    crowd.all_ask()
    assert crowd.have(BETTER) == 20 and crowd.rollout(number).ring == 2
    crowd.all_ask()
    assert crowd.have(BETTER) == 40 and crowd.rollout(number).state == "done"


def test_a_failure_stops_it_and_sends_everybody_back(crowd: Crowd) -> None:
    number = crowd.start(BAD, "10%", "100%")
    bad = {"n": 0}

    def third(_: str, digest: str) -> bool:
        bad["n"] += digest == BAD
        return digest == BAD and bad["n"] == 3

    crowd.all_ask(third)
    stopped = crowd.rollout(number)
    assert stopped.state == "stopped" and "1 of 4 devices of ring 1 failed" in stopped.reason
    crowd.all_ask()
    assert crowd.have(GOOD) == 40
    crowd.controller.tick(1e9)
    crowd.all_ask()
    assert crowd.have(GOOD) == 40 and crowd.rollout(number).ring == 0


def test_as_many_may_fail_as_a_ring_allows(crowd: Crowd) -> None:
    number = crowd.start(BETTER, "10%:passes=75%:failures=1", "100%:failures=40")
    failing: list[str] = []

    def first(name: str, digest: str) -> bool:
        failing.append(name)
        return name == failing[0]

    crowd.all_ask(first)
    assert crowd.rollout(number).ring == 1
    crowd.all_ask()
    assert crowd.have(BETTER) == 39 and crowd.current[failing[0]] == GOOD


def test_devices_that_were_away_catch_up(crowd: Crowd) -> None:
    away, present = crowd.names[:3], crowd.names[3:]
    number = crowd.start(BETTER, "100%:passes=90%")
    for name in present:
        crowd.ask(name)
    crowd.controller.tick(1.0)
    assert crowd.rollout(number).state == "done"
    stopped = crowd.start(BAD, "100%:passes=90%")
    crowd.ask(present[0], lambda _, digest: digest == BAD)
    assert crowd.rollout(stopped).state == "stopped"
    for name in away:
        crowd.ask(name)
    assert crowd.have(BETTER) == 40


def test_a_late_failure_ends_a_rollout_that_was_done(crowd: Crowd) -> None:
    number = crowd.start(BAD, "100%:passes=90%")
    for name in crowd.names[1:]:
        crowd.ask(name)
    crowd.controller.tick(1.0)
    assert crowd.rollout(number).state == "done"
    crowd.ask(crowd.names[0], lambda _, __: True)
    assert crowd.rollout(number).state == "stopped"
    crowd.all_ask()
    assert crowd.have(GOOD) == 40


def test_what_is_paused_is_offered_to_nobody(crowd: Crowd) -> None:
    number = crowd.start(BETTER)
    for name in crowd.names[:5]:
        crowd.ask(name)
    crowd.controller.pause(number)
    crowd.all_ask()
    assert crowd.have(BETTER) == 5
    crowd.controller.resume(number)
    crowd.all_ask()
    assert crowd.have(BETTER) == 40
    with pytest.raises(UsageError, match="cannot be running"):
        crowd.controller.resume(number)


def test_an_operator_takes_it_back(crowd: Crowd) -> None:
    number = crowd.start(BETTER)
    crowd.all_ask()
    crowd.controller.rollback(number)
    crowd.all_ask()
    assert crowd.have(GOOD) == 40 and crowd.rollout(number).state == "rolled back"
    with pytest.raises(UsageError, match="is rolled back"):
        crowd.controller.rollback(number)


def test_what_had_nothing_before_keeps_what_passed(store: FleetStore) -> None:
    crowd = Crowd(store, 3)
    number = crowd.start(GOOD)
    for name in crowd.names[:2]:
        crowd.ask(name)
    crowd.controller.rollback(number)
    crowd.all_ask()
    assert crowd.have(GOOD) == 2 and crowd.have(None) == 1


def test_a_report_that_was_lost_is_known_by_the_next_question(crowd: Crowd) -> None:
    number = crowd.start(BETTER)
    for name in crowd.names:
        crowd.ask(name, lost=True)
    crowd.controller.tick(1.0)
    assert crowd.rollout(number).state == "running"
    crowd.all_ask()
    assert crowd.rollout(number).state == "done"


def test_a_failure_whose_report_was_lost_stops_it(crowd: Crowd) -> None:
    number = crowd.start(BAD, "10%", "100%")
    for name in crowd.names:
        crowd.ask(name, lambda _, digest: digest == BAD, lost=True)
    crowd.all_ask()
    assert crowd.rollout(number).state == "stopped"


def test_a_device_that_falls_silent_counts_where_it_was_told_to(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = crowd.start(BAD, "10%:silent=1h", "100%")
    first = next(one.device for one in crowd.store.assigned(number) if one.ring == 0)
    crowd.controller.poll(crowd.device(first), GOOD, *crowd.settled[first])
    now = time.time()
    monkeypatch.setattr("kanna.fleet.store.time.time", lambda: now + 3700)
    crowd.controller.tick(60)
    assert crowd.rollout(number).state == "running", "the server was not up to hear it"
    crowd.store.saw([(first, now + 3000)])
    crowd.controller.tick(3600)
    assert crowd.rollout(number).state == "running", "it was heard of"
    crowd.store.saw([(first, now)])
    crowd.controller.tick(1)
    assert crowd.rollout(number).state == "stopped"


def test_a_new_device_comes_last(crowd: Crowd) -> None:
    crowd.start(BETTER, "10%:soak=1h", "100%")
    crowd.names.append("new")
    crowd.controller.add_device("new")
    crowd.current["new"] = crowd.good["new"] = None
    crowd.settled["new"] = (0, "")
    crowd.all_ask()
    assert crowd.current["new"] == GOOD
    with pytest.raises(UsageError, match="there is a device 'new'"):
        crowd.controller.add_device("new")


def test_one_rollout_at_a_time_per_device(crowd: Crowd) -> None:
    number = crowd.start(BETTER, "10%:soak=1h", "100%")
    with pytest.raises(UsageError, match=f"rollout {number} is running"):
        crowd.start(BAD)
    with pytest.raises(UsageError, match="nothing of"):
        crowd.controller.start("d" * 64, ALL)


def test_targets_have_rollouts_of_their_own(store: FleetStore) -> None:
    crowd = Crowd(store, 2)
    crowd.controller.add_device("jetson-1", target="jetson")
    crowd.controller.start(GOOD, ALL, "jetson")
    crowd.all_ask()
    assert crowd.have(None) == 2
    told = crowd.controller.poll(crowd.device("jetson-1"), None, 0, "")
    assert told.wanted == GOOD
    with pytest.raises(UsageError, match="no device"):
        crowd.controller.start(GOOD, ALL, "nowhere")


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_model_never_leaves_the_first_ring(store: FleetStore, seed: int) -> None:
    bad_rollout(store, random.Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_bad_model_never_leaves_the_first_ring_in_a_hundred(store: FleetStore, seed: int) -> None:
    bad_rollout(store, random.Random(seed))
