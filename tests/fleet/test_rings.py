"""Rings and what becomes of a rollout: functions of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanna.errors import UsageError
from kanna.fleet.decision import DONE, RUNNING, STOPPED, Tally, decide
from kanna.fleet.rings import DEFAULT_RINGS, Ring, assign, check_rings, parse_ring


def rings(*texts: str) -> list[Ring]:
    return [parse_ring(text) for text in texts]


def test_rings_are_read_as_they_are_typed() -> None:
    assert parse_ring("1%:passes=95%:failures=2:soak=1.5h:silent=2d") == Ring(
        percent=1, passes=0.95, failures=2, soak=5400, silent=172_800
    )
    check_rings(rings(*DEFAULT_RINGS))


@pytest.mark.parametrize(
    "text",
    ["", "5", "0%", "101%", "1%:passes=0%", "1%:failures=-1", "1%:soak=5", "1%:x=1", "nan%",
     "1%:soak=1m:soak=2m"],
)  # fmt: skip
def test_what_is_no_ring_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="ring"):
        parse_ring(text)


@pytest.mark.parametrize("texts", [[], ["50%"], ["10%", "10%", "100%"], ["20%", "10%", "100%"]])
def test_rings_grow_to_all(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        check_rings(rings(*texts))


@given(st.integers(1, 400), st.lists(st.sampled_from([1, 5, 10, 33, 50]), unique=True))
@settings(max_examples=60, deadline=None)
def test_each_ring_has_its_share_and_the_first_some(count: int, shares: list[int]) -> None:
    made = rings(*(f"{share}%" for share in sorted(shares)), "100%")
    placed = assign([(f"d{n}", None) for n in range(count)], made, "1")
    assert len(placed) == count and 0 in placed.values()
    for number, ring in enumerate(made):
        least = -(-count * ring.percent // 100)
        assert sum(1 for at in placed.values() if at <= number) == least


def test_a_ring_of_its_own_comes_first() -> None:
    devices = [("lab", 1), ("last", 9), *((f"d{n}", None) for n in range(98))]
    placed = assign(devices, rings("10%", "50%", "100%"), "1")
    assert placed["lab"] == 0 and placed["last"] == 2
    assert [*placed.values()].count(0) == 11
    other = assign(devices, rings("10%", "50%", "100%"), "2")
    assert other != placed and other["lab"] == 0


def test_the_next_ring_waits_for_passes_and_time() -> None:
    made = rings("10%:passes=50%:soak=10s", "100%")
    waiting = [Tally(size=4, passed=1), Tally(size=36)]
    assert decide(made, waiting, ring=0, soaked=0, elapsed=60).ring == 0
    ready = [Tally(size=4, passed=2), Tally(size=36)]
    first = decide(made, ready, ring=0, soaked=0, elapsed=4)
    assert (first.state, first.ring, first.soaked) == (RUNNING, 0, 4)
    assert decide(made, ready, ring=0, soaked=8, elapsed=4).ring == 1
    fallen = decide(made, waiting, ring=0, soaked=8, elapsed=4)
    assert (fallen.ring, fallen.soaked) == (0, 0)
    whole = [Tally(size=4, passed=4), Tally(size=36, passed=33)]
    assert decide(made, whole, ring=1, soaked=0, elapsed=0).state == DONE
    assert decide(
        made, [whole[0], Tally(size=36, passed=32)], ring=1, soaked=0, elapsed=1
    ).state == (RUNNING)


def test_rings_without_devices_are_passed_over() -> None:
    made = rings("1%", "10%", "100%")
    tallies = [Tally(size=1, passed=1), Tally(), Tally(size=1)]
    assert decide(made, tallies, ring=0, soaked=0, elapsed=0).ring == 2


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_one_failure_more_than_allowed_stops_it_anywhere(
    sizes: list[tuple[int, int]], allowed: int, at: int
) -> None:
    made = [Ring(percent=n + 1, failures=allowed) for n in range(len(sizes))]
    tallies = [Tally(size=size + failed, passed=size, failed=failed) for size, failed in sizes]
    decision = decide(made, tallies, ring=min(at, len(made) - 1), soaked=0, elapsed=1e9)
    stopped = any(failed > allowed for _, failed in sizes)
    assert (decision.state == STOPPED) is stopped
    assert not stopped or "failed, at most" in decision.reason
