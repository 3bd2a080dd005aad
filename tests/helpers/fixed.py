"""The input of the golden hashes.

The same numbers on every machine, and the same as native/tests/hashes.cpp has.

`PYTHONPATH=tests python -m helpers.fixed` writes tests/golden/encoders.json again.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna.encodings import _ggml

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders.json"
ROWS, COLUMNS = 37, 768
"""37 rows: the last group of lanes is never full."""
ENCODERS = tuple(
    name
    for name in encodings.names()
    if encodings.get(name).encoder not in (None, _ggml.encode) and name != "f32"
)
"""Encodings whose bytes are ours to promise; the others copy, or call ggml's encoder."""


class _Random:
    """xorshift64*: whole numbers only."""

    def __init__(self) -> None:
        self.state = 0x9E3779B97F4A7C15

    def next(self) -> int:
        s = self.state
        s ^= s >> 12
        s ^= s << 25 & 0xFFFFFFFFFFFFFFFF
        s ^= s >> 27
        self.state = s
        return (s * 0x2545F4914F6CDD1D & 0xFFFFFFFFFFFFFFFF) >> 32

    def bell(self) -> float:
        """Sum of four uniform values, exact in float32."""
        return sum((self.next() >> 12) - (1 << 19) for _ in range(4)) * 2.0**-21


@cache
def source() -> tuple[np.ndarray, np.ndarray]:
    """Values float32 [37, 768], and importance of the columns float32 [768]."""
    random = _Random()
    x = np.array([random.bell() for _ in range(ROWS * COLUMNS)], np.float32).reshape(ROWS, COLUMNS)
    x[3] = 0
    x[5] *= np.float32(1e-7)  # subnormal factors
    x[7] *= np.float32(1e8)  # factors beyond half precision
    weights = np.array([(random.next() >> 20) * 2.0**-6 for _ in range(COLUMNS)], np.float32)
    return x, weights


def encoded(name: str, kind: str, threads: int = 1) -> np.ndarray:
    """The fixed values in an encoding.

    By `nearest`, by `search`, or by search `weighted` with the importance.
    """
    x, weights = source()
    return encodings.get(name).encode(
        x,
        method="nearest" if kind == "nearest" else "search",
        weights=weights if kind == "weighted" else None,
        threads=threads,
    )


def kinds(name: str) -> tuple[str, ...]:
    return ("nearest", "search", "weighted") if encodings.get(name).block > 1 else ("nearest",)


def digest(name: str, kind: str, threads: int = 1) -> str:
    return hashlib.sha256(encoded(name, kind, threads).tobytes()).hexdigest()


def main() -> None:
    hashes = {name: {kind: digest(name, kind) for kind in kinds(name)} for name in ENCODERS}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    main()
