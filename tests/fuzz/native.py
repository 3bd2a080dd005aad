"""Fuzz the native core: `python -m fuzz.native --seconds 60`, best built with sanitizers.

Every encoding encodes, decodes and is improved with values, shapes, weights, second moments and
bytes by chance: NaN, infinities, denormals, zeros, no rows, more threads than blocks. What must
hold: no crash, and where values are finite, the same bytes for any number of threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kanna import _native, encodings

ODD = np.array(
    [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-40, 3e38, -3e38, 65504, 1e-8, 1], np.float32
)
"""Values that no good matrix holds, or few."""
KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "bell": lambda random, shape: random.standard_normal(shape, np.float32),
    "zeros": lambda random, shape: np.zeros(shape, np.float32),
    "constant": lambda random, shape: np.full(shape, random.choice(ODD), np.float32),
    "odd": lambda random, shape: random.choice(ODD, shape).astype(np.float32),
    "some odd": lambda random, shape: np.where(
        random.random(shape) < 0.02, random.choice(ODD, shape), random.standard_normal(shape)
    ).astype(np.float32),
    "tiny": lambda random, shape: random.standard_normal(shape, np.float32) * np.float32(1e-40),
    "huge": lambda random, shape: random.standard_normal(shape, np.float32) * np.float32(1e37),
    "bits": lambda random, shape: (
        random.integers(0, 1 << 32, shape, np.uint32).view(np.float32).copy()
    ),
}


def values(random: np.random.Generator, *shape: int) -> Any:
    """float32 of a kind by chance."""
    return KINDS[str(random.choice(list(KINDS)))](random, shape)


def one(random: np.random.Generator, name: str) -> None:
    """Encode, improve and decode one matrix in an encoding of the native core."""
    encoding, blocks = encodings.get(name), int(random.integers(0, 4))
    rows, cols = int(random.choice([0, 1, 2, 15, 16, 17, 33])), blocks * encodings.get(name).block
    threads = int(random.choice([1, 2, 3, 40]))
    x, out = values(random, rows, cols), np.empty((rows, encoding.row_bytes(cols)), np.uint8)
    weights = values(random, cols) if random.random() < 0.5 else None
    search, weighting = bool(random.random() < 0.5), int(random.integers(0, 5))
    if encoding.encoder is not None:
        try:
            _native.encode(name, x, out, search, weights, weighting, threads)
        except KeyError:  # it has a decoder alone there, or a grid
            out[:] = random.integers(0, 256, out.shape, np.uint8)
        else:
            again = np.empty_like(out)
            _native.encode(name, x, again, search, weights, weighting, 1)
            assert (again == out).all(), f"{name}: {threads} threads write other bytes"
    if encoding.encoder is None or random.random() < 0.3:
        out[:] = random.integers(0, 256, out.shape, np.uint8)
    if name in _native.grids() and cols:
        improve(random, name, x, out, threads)
    try:
        _native.decode(name, out, np.empty((rows, cols), np.float32))
    except KeyError:
        return


def improve(random: np.random.Generator, name: str, x: Any, data: Any, threads: int) -> None:
    """Error feedback under a second moment, good or not."""
    cols, group = x.shape[1], _native.grids()[name]
    if random.random() < 0.6:
        inputs = random.standard_normal((cols, cols), np.float32)
        hessian = (inputs @ inputs.T / cols).astype(np.float32)
        hessian += np.eye(cols, dtype=np.float32)
    else:
        hessian = values(random, cols, cols)
    order = random.permutation(cols // group)[:, None] * group + np.arange(group)
    order = order.ravel().astype(np.int32)
    factors: Any = np.empty((cols, cols), np.float32)
    if not _native.feedback_factors(hessian, order, factors, threads):
        factors = None
    errors = np.empty((len(x), 2), np.float32)
    _native.feedback(name, x, data, hessian, factors, order, 1, errors, threads)
    with np.errstate(all="ignore"):
        weights = values(random, cols)
        _native.row_powers(x, weights, np.empty(len(x), np.float32))
        halves: Any = np.empty(x.shape, np.uint16)
        _native.to_bfloat16(x, halves)
        rank = int(random.integers(0, 20))
        left, right = values(random, len(x), rank), values(random, rank, cols)
        _native.add_low_rank(x, left, right, float(random.choice(ODD)), np.empty_like(x))
    assert _native.count_nonfinite(x) == int((~np.isfinite(x)).sum())


def run(seed: int, *, seconds: float, names: list[str]) -> dict[str, int]:
    """Inputs that ran, by encoding; the encodings in turn until the time is over.

    Args:
        seed: The same inputs for the same seed.
        seconds: In all; every encoding runs once at least.
        names: Encodings.
    """
    random, end = np.random.default_rng(seed), time.monotonic() + seconds
    ran = dict.fromkeys(names, 0)
    while not all(ran.values()) or time.monotonic() < end:
        for name in names:
            one(random, name)
            ran[name] += 1
            if all(ran.values()) and time.monotonic() >= end:
                break
    return ran


def main() -> None:
    """Fuzz, and print how many inputs ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="an encoding")
    options = parser.parse_args()
    names = options.only or sorted(_native.grids())
    ran = run(options.seed, seconds=options.seconds, names=names)
    print(f"{sum(ran.values()):,} inputs in {len(ran)} encodings, {_native.simd()}")


if __name__ == "__main__":
    main()
