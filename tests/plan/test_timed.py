"""Sharing out bytes and seconds: never beyond either, and the best where all can be tried."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanna.errors import PlanError
from kanna.plan.allocate import Choice, Option, allocate, smallest
from kanna.plan.timed import allocate_timed, fastest, total_seconds, undominated

Table = list[list[tuple[int, float, float]]]
OPTIONS = st.lists(
    st.tuples(st.integers(1, 40).map(lambda n: 32 * n), st.floats(0, 1), st.floats(0, 10)),
    min_size=1,
    max_size=5,
)
TABLES: st.SearchStrategy[Table] = st.lists(OPTIONS, min_size=1, max_size=5)


def choices_of(table: Table) -> list[Choice]:
    return [
        Choice(
            name=f"t{i}",
            options=[
                Option(encoding=f"e{k}", nbytes=n, seconds=s, cost=c)
                for k, (n, s, c) in enumerate(options)
            ],
        )
        for i, options in enumerate(table)
    ]


def brute(table: Table, budget: int, seconds: float) -> float:
    """Least cost of any combination within both budgets."""
    return min(
        (
            sum(c for *_, c in one)
            for one in product(*table)
            if sum(n for n, *_ in one) <= budget and sum(s for _, s, _ in one) <= seconds
        ),
        default=float("inf"),
    )


@settings(max_examples=80, deadline=None)
@given(TABLES, st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_best_of_all_combinations(table: Table, share: float, haste: float) -> None:
    choices = choices_of(table)
    least, most = smallest(choices), sum(max(n for n, *_ in row) for row in table)
    budget = int(least + share * (most - least))
    soonest = total_seconds(list(fastest(choices, budget).values()))
    slowest = sum(max(s for _, s, _ in row) for row in table)
    seconds = soonest + haste * (slowest - soonest)
    taken = allocate_timed(choices, budget, seconds)
    assert list(taken) == [c.name for c in choices]
    assert all(taken[c.name] in c.options for c in choices)
    assert sum(o.nbytes for o in taken.values()) <= budget
    assert total_seconds(list(taken.values())) <= seconds * (1 + 1e-9)
    best = brute(table, budget, seconds * (1 + 1e-9))
    assert sum(o.cost for o in taken.values()) == pytest.approx(best, abs=1e-9)


def test_a_plan_that_cannot_be_so_fast_is_refused_with_the_fastest() -> None:
    choices = choices_of([[(32, 0.5, 0.0), (64, 0.25, 1.0)]] * 2)
    with pytest.raises(PlanError, match="takes 0.75 s"):
        allocate_timed(choices, 96, 0.7)
    assert total_seconds(list(fastest(choices, 128).values())) == 0.5


def test_without_haste_it_is_the_plan_of_bytes_alone() -> None:
    choices = choices_of([[(32, 1.0, 3.0), (64, 2.0, 1.0), (96, 9.0, 0.5)]] * 4)
    assert allocate_timed(choices, 300, 1e9) == allocate(choices, 300)


def test_options_that_are_worse_in_all_three_are_left_out() -> None:
    options = choices_of([[(64, 2.0, 1.0), (64, 2.0, 1.0), (96, 2.0, 1.5), (96, 1.0, 2.0)]])[0]
    assert [o.encoding for o in undominated(options.options)] == ["e0", "e3"]


def test_a_model_of_many_tensors_comes_near_the_bound() -> None:
    """Two hundred tensors of three shapes: within half a percent of what prices allow."""
    random = np.random.default_rng(5)
    # Bytes of 32 weights, nanoseconds of a weight, what it costs.
    encodings = [(10, 2.1, 60.0), (14, 1.6, 14.0), (18, 0.8, 3.0), (22, 1.4, 0.8)]
    encodings += [(26, 1.0, 0.2), (34, 0.7, 0.02)]
    choices: list[Choice] = []
    for index in range(200):
        weights = (331_776, 110_592, 884_736)[index % 3]
        matters = float(random.lognormal(0, 1.2)) * 1e-3
        choices.append(
            Choice(
                name=f"t{index}",
                options=[
                    Option(
                        encoding=str(k),
                        nbytes=weights // 32 * block,
                        cost=matters * cost * float(random.lognormal(0, 0.2)),
                        seconds=weights * rate * 1e-9,
                    )
                    for k, (block, rate, cost) in enumerate(encodings)
                ],
            )
        )
    budget = int(sum(c.options[2].nbytes for c in choices) * 1.02)
    plain = allocate(choices, budget)
    seconds = total_seconds(list(plain.values())) / 1.15
    taken = allocate_timed(choices, budget, seconds)
    assert total_seconds(list(taken.values())) <= seconds * (1 + 1e-9)
    cost = sum(o.cost for o in taken.values())
    assert cost >= sum(o.cost for o in plain.values())
    assert cost <= _bound(choices, budget, seconds) * 1.005


def _bound(choices: list[Choice], budget: int, seconds: float) -> float:
    """The highest of the bounds that prices of a grid give; each holds for every plan."""
    nbytes, times, costs = (
        np.array([[getattr(o, name) for o in c.options] for c in choices])
        for name in ("nbytes", "seconds", "cost")
    )
    bounds = [
        float((costs + b * nbytes + s * times).min(axis=1).sum() - b * budget - s * seconds)
        for b in np.geomspace(1e-10, 1e-6, 60)
        for s in np.geomspace(1e-3, 1e4, 60)
    ]
    return max(bounds)
