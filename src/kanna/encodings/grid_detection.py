"""Detects weights that lie on the grid of an encoding already.

A model may have been trained so, be ternary, or have been quantized once and written as floats.
`search` finds such a grid again: its error is zero or, where the source was rounded to 16 bits
after it was quantized, no larger than that rounding. Here it is tried on some rows, so that plans
can use the grid and users hear of it. Where several encodings hold the same grid, as with ternary
weights, the one of fewest bits is reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from kanna import encodings
from kanna.encodings import Encoding, transcoding
from kanna.errors import KannaError
from kanna.model import F32, U8, Tensor, columns, num_rows

ROWS = 8
"""Rows of a tensor that are tried."""
TOLERANCE = 0.05
"""Share of blocks that may be off the grid: a block of ordinary weights lies on none at all."""
_RUN, _COLUMNS = 32, 256
_BLOCK = 1 << 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid that weights lie on.

    Attributes:
        encoding: Name of the encoding whose grid it is.
        exact: Whether the weights lie on it without any error, else to the rounding of 16 bits.
    """

    encoding: str
    exact: bool


@cache
def detectable() -> tuple[str, ...]:
    """Names of the encodings whose grids are looked for, those of fewest levels and bits first."""
    known = [e for e in map(encodings.get, encodings.names()) if e.levels]
    known.sort(key=lambda e: (e.levels, e.bits, e.block, e.ggml_type or 0))
    return tuple(e.name for e in known)


def detect(tensor: Tensor) -> Grid | None:
    """The grid of fewest bits that all sampled rows lie on; None for ordinary weights.

    A tensor stored in a block encoding lies on that encoding's grid. For others some rows are read;
    a few values of two of them rule most encodings out.
    """
    if len(tensor.shape) < 2:
        return None
    cols = columns(tensor)
    stored = encodings.get(transcoding.ggml_form(tensor.dtype) or tensor.dtype)
    if stored.block > 1 and cols % stored.block == 0:
        return Grid(encoding=stored.name, exact=True)
    if cols % _RUN:
        return None
    sampled = np.unique(((np.arange(ROWS) + 0.5) * num_rows(tensor) / ROWS).astype(int))
    first = np.concatenate(
        [tensor.rows(int(i), int(i) + 1)[:, :_COLUMNS] for i in sampled[len(sampled) // 3 :: 3][:2]]
    )
    names = _plausible(np.ascontiguousarray(first, np.float32).tobytes(), len(first), cols)
    if not names:
        return None
    x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in sampled])
    grids = [grid for name in names if (grid := _grid_of(name, x))]
    return min(grids, key=lambda g: (not g.exact, encodings.get(g.encoding).bits), default=None)


@lru_cache(maxsize=4096)
def _plausible(data: bytes, rows: int, cols: int) -> tuple[str, ...]:
    """Encodings that a few values do not rule out; cached, since plans are made many times over."""
    x = np.frombuffer(data, np.float32).reshape(rows, -1)
    if not np.isfinite(x).all() or not x.any():
        return ()
    names = [name for name in _with_levels(x) if cols % encodings.get(name).block == 0]
    # Two runs, or one block where that is longer.
    width = {n: min(x.shape[1], max(2 * _RUN, encodings.get(n).block)) for n in names}
    return tuple(name for name in names if _grid_of(name, x[:, : width[name]]))


def _with_levels(x: F32) -> list[str]:
    """Encodings that have at least as many levels under one scale as the values have."""
    runs = np.sort(x[:, : 2 * _RUN].reshape(-1, _RUN), axis=1)
    levels = int((np.diff(runs, axis=1) != 0).sum(axis=1).max()) + 1
    return [name for name in detectable() if levels <= encodings.get(name).levels]


def _grid_of(name: str, x: F32) -> Grid | None:
    """The grid of encoding `name` if nearly every block that is not all zeros lies on it."""
    encoding = encodings.get(name)
    x = np.ascontiguousarray(x)
    try:
        exact, close = compare(encoding, x, encoding.encode(x, method="search"))
    except KannaError:
        return None  # no encoder here
    filled = x.reshape(len(x), -1, encoding.block).any(axis=2)
    for is_exact, blocks in ((True, exact), (False, close)):
        if filled.any() and float(blocks[filled].mean()) >= 1 - TOLERANCE:
            return Grid(encoding=name, exact=is_exact)
    return None


def compare(encoding: Encoding, x: F32, data: U8) -> tuple[Mask, Mask]:
    """Which blocks come back from the encoding as they were, exactly and to 16-bit rounding.

    Args:
        encoding: The encoding that holds `data`.
        x: The values before, float32 [rows, columns].
        data: The values in the encoding, uint8 [rows, row bytes].

    Returns:
        Two masks [rows, blocks]: no error at all, and none beyond the rounding of 16 bits.
    """
    error = np.abs(encoding.decode(data, x.shape[1]) - x)
    exact: Mask = np.equal(error, 0)
    precision = _precision(x)
    bits = min(11, precision)
    if encoding.bits > 7 or precision > 11:
        # Steps of eight bits are no wider than those of bf16 at the largest value: each has to be
        # judged by itself.
        size = np.abs(x)
    else:
        size = np.repeat(np.abs(x).reshape(len(x), -1, _RUN).max(axis=2), _RUN, axis=1)
    step = np.exp2(np.frexp(size)[1].astype(np.float32) - np.float32(bits))
    close: Mask = np.less_equal(error, np.where(size > 0, step, 0))
    shape = (len(x), -1, encoding.block)
    return np.asarray(exact.reshape(shape).all(axis=2)), np.asarray(
        close.reshape(shape).all(axis=2)
    )


def _precision(x: F32) -> int:
    """Significant bits of the values: 8 of bf16, 11 of f16, 24 of f32."""
    if not (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF)).any():
        return 8
    with np.errstate(over="ignore"):
        return 11 if np.array_equal(x.astype(np.float16).astype(np.float32), x) else 24


def detect_all(tensors: Mapping[str, Tensor]) -> dict[str, Grid]:
    """Grids of the matrices that are stored as floats and lie on one, by name."""
    grids: dict[str, Grid] = {}
    for name, tensor in tensors.items():
        if (
            len(tensor.shape) > 1
            and encodings.get(tensor.dtype).block == 1
            and (grid := detect(tensor))
        ):
            grids[name] = grid
    return grids


def describe(grids: Mapping[str, Grid]) -> list[str]:
    """Notes for the user, a line for each grid."""
    counts: dict[tuple[str, bool], int] = {}
    for grid in grids.values():
        counts[grid.encoding, grid.exact] = counts.get((grid.encoding, grid.exact), 0) + 1
    lines: list[str] = []
    for (name, exact), count in sorted(counts.items(), key=lambda item: -item[1]):
        label, lie = encodings.get(name).label, "matrix lies" if count == 1 else "matrices lie"
        line = f"{count} {lie} on the grid of {label}"
        lines.append(
            f"{line}, which holds what lies on it without error"
            if exact
            else f"{line} but for rounding to 16 bits, and {label} leaves no larger error than that"
        )
    return lines


def describe_errors(pairs: Iterable[tuple[Tensor, Tensor]]) -> str | None:
    """A note on the errors of matrices that lie on grids; None where there are none.

    Args:
        pairs: The source's tensor and the written one, both read whole.
    """
    exact = close = total = 0
    for before, after in pairs:
        encoding, off_exact, off_close = encodings.get(after.dtype), 0, 0
        step = max(1, _BLOCK // columns(before))
        for start in range(0, num_rows(before), step):
            stop = min(start + step, num_rows(before))
            data = after.raw(start, stop)
            assert data is not None
            same, near = compare(encoding, before.rows(start, stop), data)
            off_exact, off_close = off_exact + int((~same).sum()), off_close + int((~near).sum())
        exact, close = exact + (off_exact == 0), close + (off_exact > 0 and off_close == 0)
        total += 1
    if not total:
        return None
    larger = total - exact - close
    parts = [f"{exact} without error"] if exact else []
    parts += [f"{close} to 16-bit rounding"] if close else []
    parts += [f"{larger} with larger errors in some or all blocks"] if larger else []
    return (
        f"of {total} matrices on a grid that were quantized, all values compared: "
        f"{', '.join(parts)}"
    )
