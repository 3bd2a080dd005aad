"""Rings of a rollout: which devices come first, and what must hold before the next ones."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanna.errors import UsageError

DEFAULT_RINGS = ("1%:soak=10m", "10%:soak=10m", "100%")
MOST_RINGS = 20
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SHARE = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_EXPECTED = "such as 1%:passes=90%:failures=0:soak=10m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One ring.

    Attributes:
        percent: Devices that have their turn with it, of all in the rollout and with those of the
            rings before.
        passes: Share of its devices that must have passed before the next ring.
        failures: Devices of it that may fail; one more stops the rollout.
        soak: Seconds for which that must hold.
        silent: Seconds without a word after which a device that was given it counts as failed; 0:
            it is waited for.
    """

    percent: float
    passes: float = 0.9
    failures: int = 0
    soak: float = 0.0
    silent: float = 0.0

    def needed(self, size: int) -> int:
        """Devices that must have passed, of a ring of so many."""
        # A share such as 0.9 is no binary number: 0.9 of 10 is 9, and not 10.
        return max(1, math.ceil(self.passes * size - 1e-9)) if size else 0

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return asdict(self)


def parse_ring(text: str) -> Ring:
    """A ring as people type it: `PERCENT%[:passes=SHARE%][:failures=N][:soak=TIME][:silent=TIME]`.

    Raises:
        UsageError: It is something else.
    """
    first, *settings = text.replace(" ", "").split(":")
    values: dict[str, Any] = {"percent": _share(first, text) * 100}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name in values:
            raise UsageError(f"the ring {text!r} sets {name} twice", expected=_EXPECTED)
        if name == "passes":
            values[name] = _share(value, text)
        elif name == "failures" and re.fullmatch("[0-9]{1,9}", value):
            values[name] = int(value)
        elif name in ("soak", "silent") and (time := _TIME.fullmatch(value)):
            values[name] = float(time[1]) * _SECONDS[time[2]]
        else:
            raise UsageError(f"the ring {text!r} has {setting!r}", expected=_EXPECTED)
    return Ring(**values)


def _share(text: str, ring: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise UsageError(f"the ring {ring!r} has {text!r}", expected=f"1% to 100%, {_EXPECTED}")
    return float(match[1]) / 100


def check_rings(rings: Sequence[Ring]) -> None:
    """Raise UsageError for rings that do not grow up to all devices."""
    percents = [ring.percent for ring in rings]
    if not 1 <= len(rings) <= MOST_RINGS:
        raise UsageError(f"{len(rings)} rings", expected=f"1 to {MOST_RINGS}")
    if percents != sorted(set(percents)) or percents[-1] != 100:
        shown = ", ".join(f"{percent:g}%" for percent in percents)
        raise UsageError(f"the rings {shown}", expected="growing shares, the last one 100%")


def assign(
    devices: Iterable[tuple[str, int | None]], rings: Sequence[Ring], salt: str
) -> dict[str, int]:
    """The ring of every device, counted from 0.

    Devices with a ring of their own are in it; of the others each ring takes its share, in an
    order that another rollout shuffles.

    Args:
        devices: Names, and rings of their own, counted from 1.
        rings: Of the rollout.
        salt: Whatever differs by rollout.
    """
    everyone = list(devices)
    placed = {name: min(own, len(rings)) - 1 for name, own in everyone if own is not None}
    others = sorted(
        (name for name, own in everyone if own is None),
        key=lambda name: hashlib.sha256(f"{salt}\0{name}".encode()).digest(),
    )
    begin = 0
    for number, ring in enumerate(rings):
        # The first ring is never empty where anything could be in it: nothing goes out untried.
        end = math.ceil(ring.percent / 100 * len(others) - 1e-9)
        placed |= dict.fromkeys(others[begin:end], number)
        begin = max(begin, end)
    return placed
