"""Which encoding each tensor gets within a number of bytes and of seconds, at the least cost.

The multiple-choice knapsack problem with two budgets. Prices on both (Lagrange multipliers, by
bisection) give a bound of every plan from below; a search that goes from tensor to tensor keeps the
partial plans that lie nearest to that bound. Where it never has to leave one out, as on small
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
class _Prices:
    """What a byte and a second cost, in nats, and the bound that they give.

    Attributes:
        bound: No plan within both budgets costs less.
        reduced: By tensor and option: how much an option adds to the bound.
    """

    bound: float
    reduced: F64


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
    table = _table(choices)
    prices = _prices(table, budget, seconds)
    for width in widths:
        taken, complete = _search(table, prices, (budget, seconds), _cost(best), width)
        if taken is not None:
            best = {
                c.name: options[k]
                for c, options, k in zip(choices, table.options, taken, strict=True)
            }
        if complete:
            break
    return best


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


def _prices(table: _Table, budget: float, seconds: float) -> _Prices:
    """The prices at which the plan of least priced cost uses up both budgets, nearly.

    Any prices give a bound; these give a high one.
    """
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
    byte = byte_price(second)
    priced = table.costs + byte * table.nbytes + second * table.seconds
    least = priced.min(axis=1)
    bound = float(least.sum()) - byte * budget - second * seconds
    return _Prices(bound, priced - least[:, None])


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
    table: _Table, prices: _Prices, budgets: tuple[float, float], beat: float, width: int
) -> tuple[list[int] | None, bool]:
    """The best plan that costs less than `beat`, and whether no partial plan was left out.

    Args:
        table: The options.
        prices: Of bytes and seconds.
        budgets: Bytes and seconds.
        beat: The cost of a plan that is known.
        width: Partial plans that are kept.
    """
    budget, seconds = budgets[0], budgets[1] * (1 + _EXACT)
    # What the tensors to come take at least, of bytes and of seconds.
    left_bytes = _rest(table.nbytes.min(axis=1))
    left_seconds = _rest(table.seconds.min(axis=1))
    room = beat - prices.bound
    used = np.zeros((1, 3))  # bytes, seconds, what was added to the bound
    parents: list[I64] = []
    picks: list[I64] = []
    complete = True
    for row in range(len(table.options)):
        steps = np.stack([table.nbytes[row], table.seconds[row], prices.reduced[row]], axis=1)
        grown = (used[:, None, :] + steps[None]).reshape(-1, 3)
        fits = (
            (grown[:, 0] + left_bytes[row] <= budget)
            & (grown[:, 1] + left_seconds[row] <= seconds)
            & (grown[:, 2] < room)
        )
        index = np.flatnonzero(fits)
        if not len(index):
            return None, complete
        index = index[_distinct(grown[index], seconds)]
        if len(index) > width:
            index = index[np.argpartition(grown[index, 2], width)[:width]]
            complete = False
        used = grown[index]
        parents.append(index // len(steps))
        picks.append(index % len(steps))
    return _best(table, used, parents, picks, beat), complete


def _rest(least: F64) -> F64:
    """By tensor: the sum over those that come after it."""
    return np.append(np.cumsum(least[::-1])[::-1][1:], 0.0)


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
