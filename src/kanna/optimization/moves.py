"""What the trials of a local search move: groups of costs, taken as larger or smaller.

A plan of the same size with the costs of one group taken as larger gives that group more bytes and
all others fewer: a swap, and the allocation picks which tensors pay. Few groups, so that some
windows of text are enough to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kanna import encodings
from kanna.optimization.probe import kind_of
from kanna.plan import roles
from kanna.plan.allocate import Choice

FACTOR = 1.6
LOW_BITS = 3.6
"""Below so many bits errors are large, and predictions of second order farthest from the truth."""
_BANDS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some costs.

    Attributes:
        name: In the report.
        holds: Whether the cost of (tensor, encoding) is one of them.
    """

    name: str
    holds: Callable[[str, str], bool]


def groups(names: Sequence[str]) -> list[Group]:
    """Depths of the network, encodings of few bits, kinds of tensors; the most doubtful first."""
    kinds = list(dict.fromkeys(kind_of(name) for name in names))
    of_layer = {name: layer for name in names if (layer := roles.layer(name)) is not None}
    depth = max(of_layer.values(), default=-1) + 1
    result: list[Group] = []
    edges = [round(depth * k / _BANDS) for k in range(_BANDS + 1)]
    bands = [(a, b) for a, b in zip(edges, edges[1:], strict=False) if b > a]
    if len(bands) > 1:
        result += [
            _band(first, stop, of_layer) for first, stop in (bands[0], bands[-1], *bands[1:-1])
        ]
    result.append(Group(name="few bits", holds=lambda _, e: encodings.get(e).bits < LOW_BITS))
    return result + [_kind(kind) for kind in kinds] if len(kinds) > 1 else result


def _band(first: int, stop: int, of_layer: Mapping[str, int]) -> Group:
    name = f"layers {first} to {stop - 1}" if stop > first + 1 else f"layer {first}"
    return Group(name=name, holds=lambda tensor, _: first <= of_layer.get(tensor, -1) < stop)


def _kind(kind: str) -> Group:
    return Group(name=kind, holds=lambda tensor, _: kind_of(tensor) == kind)


def moved(
    choices: Sequence[Choice], every: Sequence[Group], factors: Mapping[str, float]
) -> list[Choice]:
    """The choices with the costs of each group times its factor."""
    active = [
        (group, factors[group.name]) for group in every if factors.get(group.name, 1.0) != 1.0
    ]

    def cost(tensor: str, encoding: str, before: float) -> float:
        for group, factor in active:
            if group.holds(tensor, encoding):
                before *= factor
        return before

    return [
        replace(c, options=[replace(o, cost=cost(c.name, o.encoding, o.cost)) for o in c.options])
        for c in choices
    ]


def first_moves(every: Sequence[Group]) -> list[tuple[str, float]]:
    """Every group up and down."""
    return [(group.name, factor) for group in every for factor in (FACTOR, 1 / FACTOR)]
