"""Energy of this machine's processors, from the counters that Linux exposes (RAPL); no estimate."""

from __future__ import annotations

import re
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NOT_HERE = "not measurable here"
# A package, as a whole; what comes after a second colon is a part of one and counted in it.
_PACKAGE = re.compile(r"[a-z-]*rapl[a-z-]*:\d+")


class EnergyMeter:
    """Joules used since it was made, by everything that runs on the machine.

    None where no counter can be read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters = _counters(root)
        self._begin = [_read(p / "energy_uj") for p in self._counters]

    def joules(self) -> float | None:
        """Joules since the start; None where there is no counter."""
        total = 0.0
        for path, begin in zip(self._counters, self._begin, strict=True):
            now = _read(path / "energy_uj")
            if begin is None or now is None:
                return None
            if now < begin:  # the counter started again
                now += _read(path / "max_energy_range_uj") or 0
            total += (now - begin) / 1e6
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
