"""How many threads to compute with, when other programs use this machine too.

llama.cpp's threads wait for each other a thousand times a token. On a processor that another
program uses, one of them is late each time and the others wait: two threads on a busy pair of cores
are no faster than one, and wait actively unless `processes.environment` says otherwise.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

from kanna.hardware.cpu import default_threads

_WINDOW = 0.1
"""Seconds of a look at the processors, during which this process sleeps."""
_KEPT = 10.0
"""Seconds for which a choice holds, so that files opened together get the same."""

_last: tuple[float, ThreadChoice] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadChoice:
    """Threads for a runtime.

    Attributes:
        count: How many.
        most: As many as there would be on an idle machine.
        idle: Processors that nobody used, of those that this process may use; None where unknown.
    """

    count: int
    most: int
    idle: float | None

    @property
    def remark(self) -> str:
        """Why there are fewer than on an idle machine; empty if there are not."""
        if self.count >= self.most:
            return ""
        return (
            f"computing with {self.count} of {self.most} threads, since other programs keep the "
            "rest of the processors busy; --threads decides otherwise"
        )


def choose_threads() -> ThreadChoice:
    """One thread per core that this process may use and nobody else does; at least one.

    Affinity and the quota of a container count as in `default_threads`.
    """
    global _last
    now = time.monotonic()
    if _last is not None and now - _last[0] < _KEPT:
        return _last[1]
    most = default_threads()
    idle = idle_cpus() if most > 1 else None
    count = most if idle is None else max(1, min(most, round(idle)))
    choice = ThreadChoice(count=count, most=most, idle=idle)
    _last = now, choice
    return choice


def idle_cpus(seconds: float = _WINDOW) -> float | None:
    """How many of the processors that this process may use were idle in the next moment.

    None where the system does not tell.
    """
    try:
        before = psutil.cpu_times(percpu=True)
        time.sleep(seconds)
        after = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError):
        return None
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(after))
    shares: list[float] = []
    for index in mine:
        if index >= min(len(before), len(after)):
            return None
        total = sum(after[index]) - sum(before[index])
        waiting = getattr(after[index], "iowait", 0.0) - getattr(before[index], "iowait", 0.0)
        idle = after[index].idle - before[index].idle + max(0.0, waiting)
        shares.append(min(1.0, max(0.0, idle / total)) if total > 0 else 1.0)
    return sum(shares)
