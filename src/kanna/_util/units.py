"""Sizes as people write them: MB is 10⁶ bytes, MiB is 2²⁰."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kanna.errors import UsageError

_POWERS = dict(zip("kmgtp", range(1, 6), strict=True))
_FACTORS = (
    {"": 1, "b": 1}
    | {p + b: 1000**n for p, n in _POWERS.items() for b in ("", "b")}
    | {f"{p}ib": 1024**n for p, n in _POWERS.items()}
)
_SIZE = re.compile(r"\s*([0-9]+(?:[._][0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


def parse_size(text: str | int) -> int:
    """Bytes of `2GB`, `1.5 GiB`, `800M` or a plain number; raises UsageError."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(
            f"{text!r} is not a size", expected="a number with a unit, such as 2GB, 1.5GiB or 800MB"
        )
    return int(float(match[1]) * factor)


def format_size(num_bytes: float) -> str:
    """Bytes for people, in decimal units: `271.4 MB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= factor:
            value = num_bytes / factor
            return f"{value:.2f} {unit}" if unit in {"GB", "TB"} else f"{value:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def with_range(value: float, spread: Sequence[float] | None, digits: int) -> str:
    """`92.0 (88.1–95.4)`: what was measured, and the slowest and fastest round if they differ."""
    if spread is None or f"{spread[0]:.{digits}f}" == f"{spread[1]:.{digits}f}":
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({spread[0]:.{digits}f}–{spread[1]:.{digits}f})"


def precision_class(bits: float) -> str:
    """The class of a file by its measured bits per weight."""
    if bits < 3:
        return "ultra-low (1–2 bit)"
    if bits < 5:
        return "low (3–4 bit)"
    if bits <= 9:
        return "medium (5–8 bit)"
    return "full (16–32 bit)"
