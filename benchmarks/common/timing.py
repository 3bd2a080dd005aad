"""Times of functions that are called by turns in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median


def by_turns(functions: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds that each takes; the first turn warms up and is not counted."""
    taken: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 1):
        for seconds, function in zip(taken, functions, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [median(seconds) for seconds in taken]
