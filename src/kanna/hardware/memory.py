"""Memory: how much there is, and how fast it is read, which bounds the speed of generation."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kanna.hardware.cpu import default_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes this process may use: of the machine, or of its container when that is less.

    Attributes:
        total: All of them.
        available: What is free now.
        swap: Of the machine.
        limited: Whether the container's limit counts.
    """

    total: int
    available: int
    swap: int
    limited: bool


def _group_limit() -> tuple[int, int] | None:
    """Limit and use of the control group in bytes (cgroup 2, then 1); None when unlimited."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            text = Path(limit).read_text().strip()
            return None if text == "max" else (int(text), int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return None


def memory() -> Memory:
    """Probe the memory; a container's limit counts when it is below the machine's."""
    import psutil

    machine = psutil.virtual_memory()
    total, available, limited = machine.total, machine.available, False
    group = _group_limit()
    if group and group[0] < total:
        total, limited = group[0], True
        available = max(0, min(available, group[0] - group[1]))
    return Memory(
        total=total, available=available, swap=psutil.swap_memory().total, limited=limited
    )


@cache
def bandwidth(seconds: float = 0.04) -> float:
    """Bytes per second that memory can be read at with every core, measured in about 0.1 s.

    Reading is what generation does: each token reads all weights once. The best pass counts, since
    other load only ever slows a pass down.
    """
    import numpy as np  # which `memory` does without

    threads = default_threads()
    # Well beyond the last-level caches of today; a quarter of what is free on small machines.
    size = int(min(128 << 20, max(32 << 20, memory().available // 4)))
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + seconds
        while best == 0.0 or time.perf_counter() < end:
            begin = time.perf_counter()
            # max() of int64 is one pass without an accumulator chain: bound by memory, not by
            # arithmetic.
            list(pool.map(np.max, parts))
            best = max(best, size / (time.perf_counter() - begin))
    return best
