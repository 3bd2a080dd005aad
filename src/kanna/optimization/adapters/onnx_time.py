"""Bytes shared out so that a graph decodes no slower than the builder's mix of the same size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kanna.conversion.nbits_sizes import EMBEDDING
from kanna.encodings.grouped.nbits import parse
from kanna.plan.allocate import Choice, Option, allocate

_TIMES = {
    (2, 32): 1.7,
    (2, 64): 1.0,
    (4, 16): 1.32,
    (4, 32): 1.0,
    (4, 64): 0.89,
    (4, 128): 0.7,
    (8, 32): 1.39,
    (8, 64): 1.25,
    (8, 128): 1.2,
}
"""Time of a product with a vector per weight by (bits, group), relative to nbits4g32.

On a core with AVX-512 VNNI, see docs/onnx.md.
"""
_FLOAT_TIME = 6.0
_BISECTIONS = 7


def time_of(encoding: str) -> float:
    """Time that decoding spends on a weight of this encoding, relative to nbits4g32."""
    kind = parse(encoding)
    return _TIMES[kind.bits, kind.group] if kind else _FLOAT_TIME


def share_within_time(
    choices: Sequence[Choice], nbytes: int, weights: Mapping[str, int], tied: bool
) -> dict[str, Option]:
    """The options of least cost within so many bytes and the time of the builder's mix.

    The mix is that of the builder's 4- and 8-bit nodes of as many bytes. Time has a price, which is
    bisected.

    Args:
        choices: One per node.
        nbytes: The budget.
        weights: How many weights each node has.
        tied: Whether the embedding is the head, too; if not, its rows are looked up and take no
            time.
    """
    # Of the builder: 5 bits per weight at 4 bits in groups of 32, 9 at 8.
    wide = min(max((8 * nbytes / max(sum(weights.values()), 1) - 5) / 4, 0.0), 1.0)
    if not tied:
        weights = {**weights, EMBEDDING: 0}
    total = sum(weights.values())
    limit = total * (1 + wide * (_TIMES[8, 32] - 1))

    def time(options: Mapping[str, Option]) -> float:
        return sum(weights[name] * time_of(option.encoding) for name, option in options.items())

    best = _at_price(choices, nbytes, weights, 0.0)
    if time(best) <= limit:
        return best
    # A price at which the whole cost is spent on time is more than enough.
    low, high = 0.0, 4 * sum(max(o.cost for o in c.options) for c in choices) / max(total, 1)
    fast = _at_price(choices, nbytes, weights, high)
    if time(fast) > limit:
        return fast
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5 if low else high / 8
        trial = _at_price(choices, nbytes, weights, middle)
        if time(trial) <= limit:
            fast, high = trial, middle
        else:
            low = middle
    return fast


def _at_price(
    choices: Sequence[Choice], nbytes: int, weights: Mapping[str, int], price: float
) -> dict[str, Option]:
    """The least sum of cost and priced time."""
    priced = [
        Choice(
            name=c.name,
            options=[
                replace(o, cost=o.cost + price * weights[c.name] * time_of(o.encoding))
                for o in c.options
            ],
        )
        for c in choices
    ]
    costs = {c.name: {o.encoding: o for o in c.options} for c in choices}
    return {name: costs[name][o.encoding] for name, o in allocate(priced, nbytes).items()}
