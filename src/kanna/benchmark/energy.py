"""Energy of this machine, as its counters and drivers tell it: RAPL, nvidia-smi, powermetrics.

Where nothing tells, there is no figure: no estimate takes its place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from kanna.benchmark.power_programs import PROGRAMS, PowerLog, PowerProgram

POWERCAP = Path("/sys/class/powercap")
_RAPL = "processors by RAPL"
# A package, as a whole; what comes after a second colon is a part of one and counted in it.
_PACKAGE = re.compile(r"[a-z-]*rapl[a-z-]*:\d+")


class EnergyMeter:
    """Joules used since it was made, by everything that runs on the machine.

    RAPL counts processors, with those of AMD too; nvidia-smi adds GPUs; powermetrics tells all of
    a Mac. GPUs alone count where they were at work and nothing tells of the processors.

    Attributes:
        sources: What was counted, and by what; () before `joules`, and where nothing was.
        obstacles: Why programs that tell power were not asked.
    """

    def __init__(self, root: Path = POWERCAP, programs: Sequence[PowerProgram] = PROGRAMS) -> None:
        self.sources: tuple[str, ...] = ()
        obstacles = [(program, program.obstacle) for program in programs]
        self.obstacles = tuple(why for _, why in obstacles if why is not None)
        self._logs = [PowerLog(program) for program, why in obstacles if why is None]
        self._counters = _counters(root)
        self._start = [_read(p / "energy_uj") for p in self._counters]
        self._begin = time.monotonic()

    def joules(self) -> float | None:
        """Joules since the start; None where nothing tells. Programs are ended, so ask once."""
        end = time.monotonic()
        counted = self._counted()
        parts = {} if counted is None else {_RAPL: counted}
        for log in self._logs:
            drawn = log.joules(self._begin, end)
            log.close()
            if drawn is not None and (drawn[1] or counted is not None or log.program.whole):
                parts[log.program.title] = drawn[0]
        self._logs = []
        self.sources = tuple(parts)
        return sum(parts.values()) if parts else None

    def _counted(self) -> float | None:
        """Joules of the processors by RAPL; None where a counter cannot be read."""
        total = 0.0
        for path, start in zip(self._counters, self._start, strict=True):
            now = _read(path / "energy_uj")
            if start is None or now is None:
                return None
            if now < start:  # the counter started again
                now += _read(path / "max_energy_range_uj") or 0
            total += (now - start) / 1e6
        return total if self._counters else None


def _counters(root: Path) -> list[Path]:
    """Folders of packages with a counter this user may read; each package once."""
    try:
        folders = sorted(p for p in root.iterdir() if _PACKAGE.fullmatch(p.name))
    except OSError:
        return []
    by_name: dict[str, Path] = {}
    for path in folders:
        try:
            name = (path / "name").read_text(encoding="ascii").strip()
        except OSError:
            name = path.name
        if name.startswith("package") and _read(path / "energy_uj") is not None:
            by_name.setdefault(name, path)
    return list(by_name.values())


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
