"""Memory of a gateway and its children over time, and how fast it grows."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress

import numpy as np
import psutil

Samples = list[tuple[float, float]]
"""Seconds and megabytes of a process."""


class MemoryWatch:
    """Looks at the resident memory of a process and of each of its children.

    Args:
        pid: Of the process.
        interval: Seconds between two looks.
    """

    def __init__(self, pid: int, interval: float = 2.0) -> None:
        self._process, self._interval = psutil.Process(pid), interval
        self.samples: dict[tuple[str, int], Samples] = defaultdict(list)

    def run(self, over: threading.Event) -> None:
        """Look until it is over."""
        while not over.wait(self._interval):
            for process in (self._process, *self._process.children(recursive=True)):
                with suppress(psutil.Error):
                    name = "gateway" if process is self._process else _role(process)
                    self.samples[name, process.pid].append(
                        (time.monotonic(), process.memory_info().rss / 1e6)
                    )

    def slope(self, name: str, warm_up: float) -> float | None:
        """Megabytes per minute: the median between any two looks at one life of a process.

        Args:
            name: `gateway`, or an engine.
            warm_up: Seconds of each life that do not count.
        """
        slopes: list[np.ndarray] = []
        for (of, _), samples in self.samples.items():
            times, sizes = np.array(samples).T
            warm = times > times[0] + warm_up
            times, sizes = times[warm], sizes[warm]
            if of == name and len(times) > 5 and times[-1] - times[0] > 20:
                i, j = np.triu_indices(len(times), 1)
                slopes.append((sizes[j] - sizes[i]) / (times[j] - times[i]))
        return 60 * float(np.median(np.concatenate(slopes))) if slopes else None


def _role(process: psutil.Process) -> str:
    """The engine that a child runs, or its module."""
    line = process.cmdline()
    if "kanna.serving.child" in line:
        return line[line.index("kanna.serving.child") + 1]
    return line[line.index("-m") + 1] if "-m" in line else process.name()
