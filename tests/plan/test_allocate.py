"""Sharing out bytes: the exact optimum, never beyond the budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanna.errors import PlanError
from kanna.plan import allocate as module
from kanna.plan.allocate import Choice, Option, allocate, frontier, largest, prune, smallest

Table = list[list[tuple[int, float]]]
SIZES = st.integers(1, 40).map(lambda n: 32 * n)
OPTIONS = st.lists(st.tuples(SIZES, st.floats(0, 10)), min_size=1, max_size=5)
TABLES: st.SearchStrategy[Table] = st.lists(OPTIONS, min_size=1, max_size=5)


def choices_of(table: Table) -> list[Choice]:
    return [
        Choice(
            name=f"t{i}",
            options=[
                Option(encoding=f"e{k}", nbytes=n, cost=c) for k, (n, c) in enumerate(options)
            ],
        )
        for i, options in enumerate(table)
    ]


def brute(table: Table, budget: int) -> float:
    """Least cost of any combination that fits."""
    fitting = [
        sum(c for _, c in one) for one in product(*table) if sum(n for n, _ in one) <= budget
    ]
    return min(fitting, default=float("inf"))


@settings(max_examples=300, deadline=None)
@given(TABLES, st.integers(0, 6400))
def test_it_is_the_best_of_all_combinations(table: Table, budget: int) -> None:
    choices = choices_of(table)
    if budget < smallest(choices):
        with pytest.raises(PlanError, match=str(smallest(choices))):
            allocate(choices, budget)
        return
    taken = allocate(choices, budget)
    assert list(taken) == [c.name for c in choices]
    assert all(taken[c.name] in c.options for c in choices)
    assert sum(o.nbytes for o in taken.values()) <= budget
    assert sum(o.cost for o in taken.values()) == pytest.approx(brute(table, budget), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_more_bytes_never_cost_more(table: Table) -> None:
    choices = choices_of(table)
    low, high = smallest(choices), largest(choices)
    costs = [sum(o.cost for o in allocate(choices, b).values()) for b in range(low, high + 64, 32)]
    assert all(later <= before + 1e-9 for before, later in zip(costs, costs[1:], strict=False))
    assert costs[-1] == pytest.approx(sum(min(c for _, c in options) for options in table))


@settings(max_examples=100, deadline=None)
@given(OPTIONS)
def test_pruned_options_are_worth_their_bytes(options: list[tuple[int, float]]) -> None:
    given_ = choices_of([options])[0].options
    kept = prune(given_)
    assert all(
        a.nbytes < b.nbytes and a.cost > b.cost for a, b in zip(kept, kept[1:], strict=False)
    )
    for option in given_:
        assert any(k.nbytes <= option.nbytes and k.cost <= option.cost for k in kept)


@settings(max_examples=50, deadline=None)
@given(TABLES, st.integers(0, 6400))
def test_coarse_steps_keep_the_budget(table: Table, budget: int) -> None:
    choices = choices_of(
        [[(n + k, c) for k, (n, c) in enumerate(options)] for options in table]
    )  # no common divisor
    budget = max(budget, smallest(choices))
    before = module._CELLS
    module._CELLS = 50
    try:
        taken = allocate(choices, budget)
    finally:
        module._CELLS = before
    assert sum(o.nbytes for o in taken.values()) <= budget
    if budget >= largest(choices):
        assert sum(o.nbytes for o in taken.values()) == largest(choices)


def test_a_model_of_real_size_is_filled_to_the_last_step() -> None:
    rng = np.random.default_rng(0)
    shapes = [
        (576, 576),
        (192, 576),
        (192, 576),
        (576, 576),
        (1536, 576),
        (1536, 576),
        (576, 1536),
    ] * 30
    table: Table = []
    for rows, cols in [*shapes, (49152, 576)]:
        bits = [2.0625, 3.4375, 4.25, 4.5, 5.5, 6.5625, 8.5, 16]
        table.append(
            [(int(rows * cols * b / 8), float(rng.uniform(0.5, 2) * 4.0**-b)) for b in bits]
        )
    choices = choices_of(table)
    for budget in (40_000_000, 71_234_567, 100_000_001):
        taken = allocate(choices, budget)
        used = sum(o.nbytes for o in taken.values())
        assert used <= budget and used > budget * 0.999


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_the_curve_is_what_each_budget_gives(table: Table) -> None:
    choices = choices_of(table)
    found = frontier(choices, 12)
    assert found[0][0] == smallest(choices) and found[-1][0] == largest(choices)
    for nbytes, cost in found:
        assert cost == pytest.approx(
            sum(o.cost for o in allocate(choices, nbytes).values()), abs=1e-9
        )
