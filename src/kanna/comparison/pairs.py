"""Artefacts of different formats beside each other where they take as many bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kanna.comparison.rows import Row

_FAR = math.log(1.25)
"""Artefacts whose sizes differ by more than a quarter are no pair."""


def pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per pair: an artefact of the first format, and the nearest one of another.

    Nearness is by total bytes. Each artefact is in one pair of two formats at most; the nearest
    ones are paired first. `larger` is how much larger the second is, 0.03 for 3 %.
    """
    able = [r for r in rows if r.role == "candidate" and r.file_bytes and r.kl_mean is not None]
    formats = list(dict.fromkeys(r.format for r in able))
    paired: list[dict[str, Any]] = []
    for other in formats[1:]:
        close = sorted(
            (abs(math.log((b.file_bytes or 1) / (a.file_bytes or 1))), i, j)
            for i, a in enumerate(able)
            for j, b in enumerate(able)
            if a.format == formats[0] and b.format == other
        )
        taken: set[int] = set()
        for far, i, j in close:
            if far > _FAR or {i, j} & taken:
                continue
            taken |= {i, j}
            paired.append(_pair(able[i], able[j]))
    return sorted(paired, key=lambda p: -p["bytes"][0])


def _pair(a: Row, b: Row) -> dict[str, Any]:
    both = (a, b)
    return {
        "names": [r.name for r in both],
        "bytes": [r.file_bytes for r in both],
        "larger": (b.file_bytes or 0) / (a.file_bytes or 1) - 1,
        "kl_mean": [r.kl_mean for r in both],
        "gen_tps": [r.gen_tps for r in both],
        "peak_bytes": [r.peak_bytes for r in both],
    }
