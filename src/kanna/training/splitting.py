"""Which examples are learned, and which are held out: near duplicates are never on both sides."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kanna.errors import UsageError
from kanna.training import near_duplicates
from kanna.training.examples import Record

_SHARE = 0.1
_MOST_HELD = 64
R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Generic[R]):
    """Two sides.

    Attributes:
        training: What is learned.
        held_out: What judges it.
        near: Examples that are nearly the same as another one.
    """

    training: list[R]
    held_out: list[R]
    near: int


def split(every: Sequence[R], seed: int) -> Split[R]:
    """Part examples; the order does not depend on that of the files.

    Args:
        every: The examples, each once.
        seed: Of the order.

    Raises:
        UsageError: There are not two that are clearly different.
    """
    if len(every) < 2:
        raise UsageError(
            f"there is {len(every)} example, which counts once however often it is there",
            expected="at least 2: one is held out, and judges what is learned",
            todo="some hundred are a good start",
        )
    order = sorted(every, key=lambda example: example.to_json())
    random.Random(seed).shuffle(order)
    groups: defaultdict[int, list[R]] = defaultdict(list)
    for example, cluster in zip(
        order, near_duplicates.clusters([example.words() for example in order]), strict=True
    ):
        groups[cluster].append(example)
    if len(groups) < 2:
        raise UsageError(
            f"all {len(every)} examples are nearly the same",
            expected="at least 2 that differ: one is held out, and judges what is learned",
            todo="take away what they repeat, or add other examples",
        )
    wanted = min(_MOST_HELD, max(1, round(len(order) * _SHARE)))
    held_out, training = _fill(list(groups.values()), wanted)
    return Split(training=training, held_out=held_out, near=len(order) - len(groups))


def _fill(groups: Sequence[list[R]], wanted: int) -> tuple[list[R], list[R]]:
    """Whole groups to hold out, as many examples as wanted or fewer; and the rest."""
    held_out: list[R] = []
    training: list[R] = []
    for group in groups:
        fits = len(held_out) + len(group) <= wanted
        (held_out if fits else training).extend(group)
    if not held_out:  # every group is larger than what is wanted
        smallest = min(groups, key=len)
        return list(smallest), [e for group in groups if group is not smallest for e in group]
    return held_out, training
