"""How busy other programs keep this machine while something is measured."""

from __future__ import annotations

import time

import psutil

BUSY = 0.2
"""Share of the processors from which on the figures are said to suffer."""


class LoadMeter:
    """Counts what other programs take of the processors from its making on."""

    def __init__(self) -> None:
        self._began, self._all, self._own = time.monotonic(), _busy(), _ours()

    def others(self) -> float | None:
        """Share of all processors that others took so far, 0 to 1; None where it cannot be told."""
        seconds = time.monotonic() - self._began
        if self._all is None or (now := _busy()) is None or seconds < 0.5:
            return None
        taken = (now - self._all) - (_ours() - self._own)
        return min(1.0, max(0.0, taken / (seconds * (psutil.cpu_count() or 1))))


def _busy() -> float | None:
    """Seconds that all processors together worked since the machine started."""
    try:
        times = psutil.cpu_times()
    except (OSError, RuntimeError):
        return None
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _ours() -> float:
    """Seconds of them that this process and its children that ended took."""
    own = psutil.Process().cpu_times()
    children = getattr(own, "children_user", 0.0) + getattr(own, "children_system", 0.0)
    return own.user + own.system + children


def remark(busy: float | None) -> str | None:
    """A sentence where other programs were at work, or None."""
    if busy is None or busy < BUSY:
        return None
    return (
        f"other programs took {busy:.0%} of the processors while speed was measured: figures are "
        "those of a busy machine; measure again on an idle one"
    )
