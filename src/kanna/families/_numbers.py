"""Numbers of a config.json, which may hold anything JSON can spell."""

from __future__ import annotations

LARGEST = 3.4028234663852886e38
"""Of single precision, in which every runtime keeps these numbers."""


def real(value: object) -> float | None:
    """`value` as a float; None when it is no number, not finite, or beyond single precision."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else None
