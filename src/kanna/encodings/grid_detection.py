"""Weights that lie on the grid of an encoding already.

Trained so, ternary, or once quantized and written as floats.

`search` finds such a grid again: what it leaves is no error at all, or, where the source was
rounded to 16 bits after it was quantized, no more than that rounding. Here it is tried on some
rows, so that plans can use it and users hear of it. Of several encodings that hold a grid, as
ternary ones do, the one of fewest bits is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kanna import encodings
from kanna.encodings import Encoding
from kanna.errors import KannaError
from kanna.model import F32, U8, Tensor, columns, num_rows

TERNARY = ("q1_0", "tq1_0", "tq2_0", "q2_0")
FEW = ("q2_k", "q3_k", "mxfp4", "iq4_xs", "q4_0", "iq4_nl", "q4_k", "q4_1")
"""At most 16 values among 32."""
MANY = ("nvfp4", "q5_0", "q5_k", "q5_1", "q6_k", "q8_0")
ROWS = 8
MISSED = 0.05
"""Share of blocks that may be missed: a block of ordinary weights lies on no grid at all."""
_RUN, _COLUMNS = 32, 256
_BLOCK = 1 << 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """encoding: its name; exact: held without any error, else to the rounding of 16 bits."""

    encoding: str
    exact: bool


def recognise(tensor: Tensor) -> Grid | None:
    """The encoding of fewest bits whose grid every row tried lies on; None for ordinary weights.

    A tensor stored in a block encoding lies on that encoding's grid. Some rows are read, and most
    tensors are told by a few values of two of them.
    """
    if len(tensor.shape) < 2:
        return None
    stored = encodings.get(tensor.dtype)
    if stored.block > 1:
        return Grid(encoding=stored.name, exact=True)
    cols = columns(tensor)
    if cols % _RUN:
        return None
    at = np.unique(((np.arange(ROWS) + 0.5) * num_rows(tensor) / ROWS).astype(int))
    first = np.concatenate(
        [tensor.rows(int(i), int(i) + 1)[:, :_COLUMNS] for i in at[len(at) // 3 :: 3][:2]]
    )
    maybe = _maybe(np.ascontiguousarray(first, np.float32).tobytes(), len(first), cols)
    if not maybe:
        return None
    x = np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
    found = [grid for name in maybe if (grid := _held(name, x))]
    return min(found, key=lambda g: (not g.exact, encodings.get(g.encoding).bits), default=None)


@lru_cache(maxsize=4096)
def _maybe(data: bytes, rows: int, cols: int) -> tuple[str, ...]:
    """Encodings that a few values do not rule out.

    Remembered, since plans are made many times over.
    """
    x = np.frombuffer(data, np.float32).reshape(rows, -1)
    if not np.isfinite(x).all() or not x.any():
        return ()
    able = [name for name in _possible(x) if cols % encodings.get(name).block == 0]
    # Two runs, or one block where that is longer.
    part = {name: min(x.shape[1], max(2 * _RUN, encodings.get(name).block)) for name in able}
    return tuple(name for name in able if _held(name, x[:, : part[name]]))


def _possible(x: F32) -> list[str]:
    """Encodings that so many different values under one scale do not rule out."""
    runs = np.sort(x[:, : 2 * _RUN].reshape(-1, _RUN), axis=1)
    different = int((np.diff(runs, axis=1) != 0).sum(axis=1).max()) + 1
    return [*(TERNARY if different <= 4 else ()), *(FEW if different <= 16 else ()), *MANY]


def _held(name: str, x: F32) -> Grid | None:
    """Whether the encoding holds nearly every block that is not all zeros."""
    encoding = encodings.get(name)
    x = np.ascontiguousarray(x)
    try:
        exact, close = compare(encoding, x, encoding.encode(x, method="search"))
    except KannaError:
        return None  # no encoder here
    filled = x.reshape(len(x), -1, encoding.block).any(axis=2)
    for kind, blocks in ((True, exact), (False, close)):
        if filled.any() and float(blocks[filled].mean()) >= 1 - MISSED:
            return Grid(encoding=name, exact=kind)
    return None


def compare(encoding: Encoding, x: F32, data: U8) -> tuple[Mask, Mask]:
    """Blocks [rows, blocks] whose values come out as they were, and those that do to the rounding of 16 bits.

    Args:
        x: Float32 [rows, columns].
        data: Uint8 [rows, row bytes], the same in the encoding.
    """
    found = encoding.decode(data, x.shape[1])
    error = np.abs(found - x)
    exact: Mask = np.equal(error, 0)
    bits = min(11, found_bits := _precision(x))
    if encoding.bits > 7 or found_bits > 11:
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
    """Bits of a value that count: 8 of bf16, 11 of f16, 24 of f32."""
    if not (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF)).any():
        return 8
    with np.errstate(over="ignore"):
        return 11 if np.array_equal(x.astype(np.float16).astype(np.float32), x) else 24


def recognised(tensors: Mapping[str, Tensor]) -> dict[str, Grid]:
    """Grids of the matrices that are stored as floats and lie on one, by name."""
    found: dict[str, Grid] = {}
    for name, tensor in tensors.items():
        if (
            len(tensor.shape) > 1
            and encodings.get(tensor.dtype).block == 1
            and (grid := recognise(tensor))
        ):
            found[name] = grid
    return found


def told(grids: Mapping[str, Grid]) -> list[str]:
    """What the user should know of a source, a line for each grid."""
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


def kept(entries: Iterable[tuple[Tensor, Tensor]]) -> str | None:
    """How matrices came out that lie on grids.

    Pairs of the source's and what was written, both read whole.
    """
    exact = close = total = 0
    for before, after in entries:
        encoding, missed, missed_close = encodings.get(after.dtype), 0, 0
        step = max(1, _BLOCK // columns(before))
        for start in range(0, num_rows(before), step):
            stop = min(start + step, num_rows(before))
            data = after.raw(start, stop)
            assert data is not None
            same, near = compare(encoding, before.rows(start, stop), data)
            missed, missed_close = missed + int((~same).sum()), missed_close + int((~near).sum())
        exact, close = exact + (missed == 0), close + (missed > 0 and missed_close == 0)
        total += 1
    if not total:
        return None
    rest = total - exact - close
    parts = [f"{exact} without error"] if exact else []
    parts += [f"{close} to 16-bit rounding"] if close else []
    parts += [f"{rest} with larger errors in some or all blocks"] if rest else []
    return f"of {total} matrices on a grid that were quantized, all values compared: {', '.join(parts)}"
