"""Which encoding each tensor gets within a number of bytes and of seconds, at the least cost.

The multiple-choice knapsack problem with two budgets. Prices on both (Lagrange multipliers, by
bisection) give a bound of every plan from below; a search that goes from tensor to tensor keeps the
partial plans whose bound is lowest. Where it never has to leave one out, as on small
tables, its plan is the best there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kanna.errors import PlanError
from kanna.plan.allocate import F64, I64, Choice, Option, allocate

_WIDTHS = (64, 600)
"""Partial plans that are kept: a first search gives the second a plan to beat."""
_STEPS = 48
_AROUND = (0.0, 0.25, 0.6, 1.0, 1.6, 4.0)
"""Prices beside those of the whole table: after some choices, others bound the rest better."""
_DIRECTIONS = 9
_EXACT = 1e-9
"""Of a budget of seconds: sums of the same numbers in another order differ by less."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Options of every tensor in rows of equal length; what is missing costs infinitely much.

    Attributes:
        options: By tensor.
        nbytes, seconds, costs: [tensors, options].
    """

    options: Sequence[Sequence[Option]]
    nbytes: F64
    seconds: F64
    costs: F64


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What no plan goes below, at several prices of a byte and a second.

    Attributes:
        weights: Of bytes, seconds and costs, [prices, 3]; the last ones have no part of the cost,
            and tell that a budget cannot be kept.
        priced: How many have one.
        rest: What the tensors after each cost at least at these prices, [tensors, prices].
        limit: The budgets at these prices, [prices].
    """

    weights: F64
    priced: int
    rest: F64
    limit: F64


def undominated(options: Sequence[Option]) -> list[Option]:
    """The options that no other beats in size, time and cost at once, smallest first."""
    kept: list[Option] = []
    for one in sorted(options, key=lambda o: (o.nbytes, o.seconds, o.cost)):
        if not any(k.seconds <= one.seconds and k.cost <= one.cost for k in kept):
            kept.append(one)
    return kept


def total_seconds(options: Sequence[Option]) -> float:
    """Seconds of a plan."""
    return sum(option.seconds for option in options)


def fastest(choices: Sequence[Choice], budget: int) -> dict[str, Option]:
    """The options that take least time within `budget` bytes, by tensor.

    Raises PlanError when even the smallest options do not fit.
    """
    swapped = [
        replace(c, options=[replace(o, cost=o.seconds, seconds=o.cost) for o in c.options])
        for c in choices
    ]
    plan = allocate(swapped, budget)
    return {name: replace(o, cost=o.seconds, seconds=o.cost) for name, o in plan.items()}


def allocate_timed(
    choices: Sequence[Choice], budget: int, seconds: float, widths: Sequence[int] = _WIDTHS
) -> dict[str, Option]:
    """The options of least total cost within `budget` bytes and `seconds`, by tensor.

    Args:
        choices: Tensors and their options.
        budget: Bytes of all of them together.
        seconds: The same of their times.
        widths: Partial plans that are kept by one search after another.

    Raises:
        PlanError: No plan within the bytes is so fast; it names the fastest.
    """
    best = allocate(choices, budget)
    if total_seconds(list(best.values())) <= seconds:
        return best
    best = fastest(choices, budget)
    if (least := total_seconds(list(best.values()))) > seconds * (1 + _EXACT):
        raise PlanError(
            f"the fastest plan of {budget} bytes takes {least:.6g} s",
            expected=f"at most {seconds:.6g} s",
        )
    # The largest first: what they leave is shared out in finer steps.
    ordered = sorted(choices, key=lambda c: -max(o.nbytes for o in c.options))
    table = _table(ordered)
    bounds = _bounds(table, budget, seconds * (1 + _EXACT))
    for width in widths:
        taken, complete = _search(table, bounds, seconds, _cost(best), width)
        if taken is not None:
            best = {
                c.name: options[k]
                for c, options, k in zip(ordered, table.options, taken, strict=True)
            }
        if complete:
            break
    return {c.name: best[c.name] for c in choices}


def _cost(plan: dict[str, Option]) -> float:
    return sum(option.cost for option in plan.values())


def _table(choices: Sequence[Choice]) -> _Table:
    options = [undominated(c.options) for c in choices]
    most = max(map(len, options), default=0)
    # What is missing is the first option at a cost that nobody pays.
    filled = [
        [*those, *[replace(those[0], cost=np.inf)] * (most - len(those))] for those in options
    ]
    numbers = np.array([[(o.nbytes, o.seconds, o.cost) for o in row] for row in filled], np.float64)
    return _Table(options, *np.moveaxis(numbers.reshape(len(options), most, 3), -1, 0))


def _bounds(table: _Table, budget: float, seconds: float) -> _Bounds:
    """Bounds at the prices at which a plan nearly uses up both budgets, and at prices around."""
    byte, second = _prices(table, budget, seconds)
    around = [(byte * b, second * s, 1.0) for b in _AROUND for s in _AROUND]
    shares = np.linspace(0, 1, _DIRECTIONS)
    alone = [(share / max(budget, 1), (1 - share) / max(seconds, 1e-30), 0.0) for share in shares]
    weights = np.array([*dict.fromkeys(around), *alone])
    every = np.stack([table.nbytes, table.seconds, table.costs])
    # Infinite costs must not meet a weight of nothing.
    every[2] = np.where(np.isfinite(every[2]), every[2], 0.0)
    missing = ~np.isfinite(table.costs)
    least = np.stack(
        [np.where(missing, np.inf, np.tensordot(w, every, 1)).min(axis=1) for w in weights], axis=1
    )
    rest = np.cumsum(least[::-1], axis=0)[::-1]
    rest = np.concatenate([rest[1:], np.zeros((1, len(weights)))])
    limit = weights @ np.array([budget, seconds, 0.0])
    return _Bounds(weights, len(weights) - len(alone), rest, limit)


def _prices(table: _Table, budget: float, seconds: float) -> tuple[float, float]:
    """Of a byte and a second, at which the cheapest plan uses up both budgets, nearly."""
    rows = np.arange(len(table.options))
    finite = table.costs[np.isfinite(table.costs)]
    scale = max(float(finite.max() - finite.min()), 1e-30) * max(len(rows), 1)
    per_byte, per_second = scale / max(budget, 1), scale / max(seconds, 1e-30)

    def chosen(byte: float, second: float) -> tuple[float, float]:
        at = np.argmin(table.costs + byte * table.nbytes + second * table.seconds, axis=1)
        return float(table.nbytes[rows, at].sum()), float(table.seconds[rows, at].sum())

    def byte_price(second: float) -> float:
        return _bisect(lambda byte: chosen(byte, second)[0] > budget, per_byte)

    second = _bisect(lambda price: chosen(byte_price(price), price)[1] > seconds, per_second)
    return byte_price(second), second


def _bisect(too_much: Callable[[float], bool], scale: float) -> float:
    """The least price at which not too much is used; 0 where nothing has to be paid."""
    if not too_much(0.0):
        return 0.0
    low, high = -40.0, 40.0  # powers of two beside the scale
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(scale * 2.0**middle) else (low, middle)
    return scale * 2.0**high


def _search(
    table: _Table, bounds: _Bounds, seconds: float, beat: float, width: int
) -> tuple[list[int] | None, bool]:
    """The best plan that costs less than `beat`, and whether no partial plan was left out.

    Args:
        table: The options.
        bounds: Of what can be within both budgets.
        seconds: The budget of time.
        beat: The cost of a plan that is known.
        width: Partial plans that are kept.
    """
    used = np.zeros((1, 3))  # bytes, seconds, cost
    parents: list[I64] = []
    picks: list[I64] = []
    complete = True
    slack = _EXACT * np.abs(bounds.limit[bounds.priced :])
    for row in range(len(table.options)):
        steps = np.stack([table.nbytes[row], table.seconds[row], table.costs[row]], axis=1)
        steps = steps[: len(table.options[row])]
        grown = (used[:, None, :] + steps[None]).reshape(-1, 3)
        index = _distinct(grown, seconds)
        least = grown[index] @ bounds.weights.T + (bounds.rest[row] - bounds.limit)
        bound = least[:, : bounds.priced].max(axis=1)
        fits = (least[:, bounds.priced :] <= slack).all(axis=1) & (bound < beat)
        index, bound = index[fits], bound[fits]
        if not len(index):
            return None, complete
        if len(index) > width:
            index = index[np.argpartition(bound, width)[:width]]
            complete = False
        used = grown[index]
        parents.append(index // len(steps))
        picks.append(index % len(steps))
    return _best(table, used, parents, picks, beat), complete


def _distinct(plans: F64, seconds: float) -> I64:
    """Of partial plans of the same bytes and seconds, the one of least cost."""
    key = np.rint(plans[:, 1] / (seconds * _EXACT)) if seconds > 0 else plans[:, 1]
    order = np.lexsort((plans[:, 2], key, plans[:, 0]))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(plans[order, 0]) != 0) | (np.diff(key[order]) != 0)
    return order[first]


def _best(
    table: _Table, used: F64, parents: Sequence[I64], picks: Sequence[I64], beat: float
) -> list[int] | None:
    """The options of the cheapest whole plan; None when none is below `beat`."""
    count = len(used)
    at = np.arange(count)
    taken = np.zeros((count, len(picks)), np.int64)
    for row in reversed(range(len(picks))):
        taken[:, row] = picks[row][at]
        at = parents[row][at]
    costs = table.costs[np.arange(len(picks))[None], taken].sum(axis=1)
    best = int(np.argmin(costs))
    return [int(k) for k in taken[best]] if costs[best] < beat else None
