"""Which encoding each tensor gets, so that the cost is least within a number of bytes.

Pure functions over tables. The multiple-choice knapsack problem, solved exactly by dynamic
programming over multiples of the sizes' common divisor. Models have few different shapes, so that
divisor is large and the table small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from kanna.errors import PlanError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_CELLS = 400_000
"""Steps of the budget at most.

Finer divisors are rounded up to coarser ones, which never overruns the budget.
"""
_COARSE = 100_000
"""The same for a curve, which is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One encoding of a tensor: what it takes and what it costs.

    Attributes:
        seconds: What multiplying it adds to the time of a token; 0 where time does not count.
    """

    encoding: str
    nbytes: int
    cost: float
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A tensor and its options."""

    name: str
    options: Sequence[Option]


def prune(options: Sequence[Option]) -> list[Option]:
    """The options that no other beats in both size and cost, smallest first."""
    best: list[Option] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.cost)):
        if not best or option.cost < best[-1].cost:
            best.append(option)
    return best


def smallest(choices: Sequence[Choice]) -> int:
    """Bytes of the smallest plan: every tensor with its smallest option."""
    return sum(min(o.nbytes for o in c.options) for c in choices)


def largest(choices: Sequence[Choice]) -> int:
    """Bytes of the cheapest options in terms of cost: more buys nothing."""
    return sum(prune(c.options)[-1].nbytes for c in choices)


def allocate(choices: Sequence[Choice], budget: int) -> dict[str, Option]:
    """The options with the least total cost whose bytes do not exceed `budget`, by tensor.

    Raises PlanError when even the smallest options do not fit.
    """
    table = [prune(c.options) for c in choices]
    least = sum(options[0].nbytes for options in table)
    if least > budget:
        raise PlanError(f"the smallest plan takes {least} bytes", expected=f"at most {budget}")
    # Only what goes beyond the smallest options is shared out.
    extra = [
        np.array([o.nbytes - options[0].nbytes for o in options], np.int64) for options in table
    ]
    costs = [np.array([o.cost for o in t], np.float64) for t in table]
    room = budget - least
    if room >= sum(int(e[-1]) for e in extra):
        return {c.name: options[-1] for c, options in zip(choices, table, strict=True)}
    unit = gcd(*(int(b) for e in extra for b in e)) or 1
    unit *= max(1, -(-(room // unit) // _CELLS))
    taken = _solve([-(-e // unit) for e in extra], costs, room // unit)
    return {c.name: options[k] for c, options, k in zip(choices, table, taken, strict=True)}


def frontier(choices: Sequence[Choice], points: int) -> list[tuple[int, float]]:
    """About `points` pairs of bytes and the least cost within them, from smallest to largest plan.

    One run of the dynamic programme gives them all; steps are coarser than those of `allocate`,
    and rounded up.
    """
    table = [prune(c.options) for c in choices]
    least = sum(options[0].nbytes for options in table)
    extra = [
        np.array([o.nbytes - options[0].nbytes for o in options], np.int64) for options in table
    ]
    room = sum(int(e[-1]) for e in extra)
    unit = gcd(*(int(b) for e in extra for b in e)) or 1
    unit *= max(1, -(-(room // unit) // _COARSE))
    best = np.zeros(room // unit + 1)
    for size, options in zip(extra, table, strict=True):
        now = best + options[0].cost
        for k in range(1, len(options)):
            step = -(-int(size[k]) // unit)
            if step > room // unit:
                break
            np.minimum(now[step:], best[: len(best) - step] + options[k].cost, out=now[step:])
        best = now
    at = np.unique(np.linspace(0, len(best) - 1, points).astype(int))
    return [(least + int(i) * unit, float(best[i])) for i in at]


def _solve(sizes: Sequence[I64], costs: Sequence[F64], room: int) -> list[int]:
    """Option of each tensor; best[b] is the least cost of the tensors so far within b units."""
    best = np.zeros(room + 1)
    chosen: list[NDArray[np.uint8]] = []
    for size, cost in zip(sizes, costs, strict=True):
        now = best + cost[0]
        pick = np.zeros(room + 1, np.uint8)
        for k in range(1, len(size)):
            step = int(size[k])
            if step > room:
                break
            other = best[: room + 1 - step] + cost[k]
            better = other < now[step:]
            now[step:][better] = other[better]
            pick[step:][better] = k
        best = now
        chosen.append(pick)
    taken: list[int] = []
    left = room
    for pick, size in zip(reversed(chosen), reversed(sizes), strict=True):
        taken.append(int(pick[left]))
        left -= int(size[taken[-1]])
    return taken[::-1]
