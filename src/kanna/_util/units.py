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
_BARE = 1_000_000
"""Bytes below which a number without a unit was hardly meant as bytes."""
_SECONDS = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*")
_DURATION = re.compile(
    rf"(?:{_SECONDS.pattern}(?:h|hours?|m|min|minutes?|s|sec|seconds?)(?![a-z]))+\s*", re.IGNORECASE
)
_PART = re.compile(r"([0-9.]+)\s*([a-z])", re.IGNORECASE)
_LENGTHS = {"h": 3600, "m": 60, "s": 1}
_SIZE = re.compile(r"\s*([0-9]+(?:[._][0-9]+)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


Size = int | str
"""A size as every verb takes it: bytes, or a text such as 2GB."""


def optional_size(size: Size | None) -> int | None:
    """Bytes of a size, or None for none; raises UsageError."""
    return None if size is None else parse_size(size)


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
    size = int(float(match[1]) * factor)
    if not match[2] and 0 < size < _BARE:
        raise UsageError(
            f"{text!r} has no unit: it would be {size} bytes",
            expected="a number with a unit, such as 2GB, 1.5GiB or 800MB",
            todo=f"write {match[1]}GB or {match[1]}MB; {match[1]}B means bytes",
        )
    return size


def parse_duration(text: str | float) -> float:
    """Seconds of `2h`, `90 min`, `1h30m`, `45s` or a plain number of seconds; raises UsageError."""
    if isinstance(text, int | float) or _SECONDS.fullmatch(text):
        seconds = float(text)
    elif _DURATION.fullmatch(text):
        seconds = sum(float(n) * _LENGTHS[unit.lower()] for n, unit in _PART.findall(text))
    else:
        raise UsageError(
            f"{text!r} is not a time", expected="a number with a unit, such as 2h, 90min or 45s"
        )
    if not 0 < seconds < 1e9:
        raise UsageError(f"a time of {text}", expected="more than nothing, such as 2h or 90min")
    return seconds


def format_size(num_bytes: float) -> str:
    """Bytes for people, in decimal units: `271.4 MB`."""
    if abs(num_bytes) < 999.5:
        return f"{num_bytes:.0f} B"
    for unit, factor, digits in (("kB", 1e3, 1), ("MB", 1e6, 1), ("GB", 1e9, 2)):
        shown = f"{num_bytes / factor:.{digits}f}"
        if abs(float(shown)) < 1000:  # as it is written: 999,990 bytes are 1.0 MB
            return f"{shown} {unit}"
    return f"{num_bytes / 1e12:.2f} TB"


def with_range(value: float, spread: Sequence[float] | None, digits: int) -> str:
    """`92.0 (88.1–95.4)`: what was measured, and the slowest and fastest round if they differ."""
    if spread is None or f"{spread[0]:.{digits}f}" == f"{spread[1]:.{digits}f}":
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({spread[0]:.{digits}f}–{spread[1]:.{digits}f})"


def share_less(share: float) -> str:
    """How much less than something: `40 %` less, or `95 % more` where the share is negative."""
    whole = round(share * 100)
    return f"{whole} %" if whole >= 0 else f"{-whole} % more"


def precision_class(bits: float) -> str:
    """The class of a file by its measured bits per weight."""
    if bits < 3:
        return "ultra-low (below 3 bits)"
    if bits < 5:
        return "low (3 to 5 bits)"
    if bits <= 9:
        return "medium (5 to 9 bits)"
    return "full (above 9 bits)"
