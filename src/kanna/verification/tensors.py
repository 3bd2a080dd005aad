"""Tensors as they lie in the file, against the source's: names, shapes, values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kanna import encodings
from kanna._util.progress import Progress
from kanna.checks import Check
from kanna.model import F32, Tensor, columns, num_rows

# Values sampled per tensor: first, last and evenly spread rows. A wrong transpose, permutation,
# offset or scale shows in every block of rows; reading all of a large model would take as long as
# converting it.
_SAMPLE = 1 << 18
_BLOCK = 32
# Bounds of the rounding error, as root mean square relative to the largest value of each 32: a
# scale and 2^bits steps give about 0.8 / 2^bits; clipping, outliers and shared scales of
# super-blocks stay below three times that.
_BOUND = 2.5
_MOST = 0.6
_TUNED, _MOVED = 0.2, 0.02
"""Of vectors, and what is added for matrices."""
_EXACT = {
    "f64": 1e-7,
    "f32": 1e-7,
    "f16": 2**-10,
    "bf16": 2**-8,
    "i8": 0.0,
    "i16": 0.0,
    "i32": 0.0,
    "i64": 0.0,
}


def bound(encoding: str) -> float:
    """Largest error that is still what the encoding itself costs; see `error`."""
    if encoding in _EXACT:
        return _EXACT[encoding]
    return min(_MOST, _BOUND / 2 ** encodings.get(encoding).bits)


def stored_as(tensor: Tensor) -> str:
    """Encoding of the values in the file: a view that computes from halves has no more digits."""
    name, inner = tensor.dtype, getattr(tensor, "inner", None)
    while name == "f32" and inner is not None:
        if inner.dtype in ("f16", "bf16"):
            return inner.dtype
        inner = getattr(inner, "inner", None)
    return name


def error(expected: F32, actual: F32) -> float:
    """Root mean square of the error over that of the largest |expected| in each 32 columns.

    Args:
        expected: f32 [rows, cols].
        actual: f32 [rows, cols].
    """
    rows, cols = expected.shape
    size = _BLOCK if cols % _BLOCK == 0 else cols
    peak = np.abs(expected).reshape(rows, cols // size, size).max(axis=2).astype(np.float64)
    scale = float(np.sqrt(np.mean(np.square(peak))))
    off = float(np.sqrt(np.mean(np.square(actual.astype(np.float64) - expected))))
    if scale == 0:
        return 0.0 if off == 0 else np.inf
    return off / scale


@dataclass(slots=True)
class Worst:
    """The tensor that came closest to its bound."""

    share: float = -1.0
    line: str = ""


def check(
    expected: Mapping[str, Tensor],
    written: Mapping[str, Tensor],
    progress: Progress,
    *,
    tuned: bool = False,
) -> list[Check]:
    """Every tensor present, none added, shapes equal, values finite and within their bounds.

    Args:
        expected: The source's tensors by name.
        written: The artefact's.
        progress: Where progress is reported.
        tuned: Vectors and the scales of blocks were tuned with the codes, and may have moved some
            way.
    """
    missing, extra = (
        sorted(expected.keys() - written.keys()),
        sorted(written.keys() - expected.keys()),
    )
    problems = [f"missing {n}" for n in missing[:5]] + [f"unexpected {n}" for n in extra[:5]]
    shared = [n for n in expected if n in written]
    problems += [
        f"{n} is {written[n].shape}, not {expected[n].shape}"
        for n in shared
        if tuple(written[n].shape) != tuple(expected[n].shape)
    ]
    names = Check(
        name="tensors present",
        ok=not problems,
        detail="; ".join(problems[:8]) or f"{len(shared)} of {len(expected)}",
    )
    if problems:
        return [names]
    progress.start("verify tensors", len(shared), "tensors")
    bad: list[str] = []
    worst = Worst()
    for name in shared:
        problem = _compare(expected[name], written[name], worst, tuned)
        if problem:
            bad.append(f"{name}: {problem}")
        progress.advance(1, name)
    progress.finish()
    detail = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if len(bad) > 5 else "")
    return [
        names,
        Check(
            name="tensor values", ok=not bad, detail=detail or f"closest to its bound: {worst.line}"
        ),
    ]


def _compare(expected: Tensor, written: Tensor, worst: Worst, tuned: bool) -> str:
    """The problem of one tensor; empty when there is none."""
    rows, cols = num_rows(expected), columns(expected)
    stored = stored_as(written)
    limit = bound(stored)
    if tuned:
        limit = _TUNED if len(expected.shape) == 1 else limit + _MOVED
    total, parts = 0.0, 0
    for start, stop in sample(rows, cols):
        a, b = expected.rows(start, stop), written.rows(start, stop)
        if not np.isfinite(b).all():
            return f"rows {start} to {stop} hold values that are not finite" + (
                "" if np.isfinite(a).all() else ", as the source does"
            )
        off = error(a, b)
        if off > limit * 4:  # one broken block of rows must not hide behind good ones
            return (
                f"rows {start} to {stop} are off by {off:.2g} of their largest values; "
                f"{stored} allows {limit:.2g}"
            )
        total, parts = total + off * off, parts + 1
    off = (total / max(1, parts)) ** 0.5
    if off > limit:
        return f"off by {off:.2g} of its largest values; {stored} allows {limit:.2g}"
    if limit and off / limit > worst.share:
        worst.share, worst.line = (
            off / limit,
            f"{written.name} ({stored}), error {off:.2g} of at most {limit:.2g}",
        )
    return ""


def sample(rows: int, cols: int) -> list[tuple[int, int]]:
    """Blocks of rows to read: all of a small tensor, else eight from the first row to the last."""
    most = max(8, _SAMPLE // max(1, cols))
    if rows <= most:
        return [(0, rows)] if rows else []
    size = max(1, most // 8)
    starts = np.linspace(0, rows - size, 8).astype(int)
    return [(int(s), int(s) + size) for s in starts]
