"""Codes of a matrix with one scale per column, the smallest error of what it is multiplied by.

Scales are searched on the mean squares of the inputs. Rows of the matrix are then rounded one by
one, each making up for the errors of those before it (GPTQ, arXiv:2210.17323), under the second
moment of the inputs, shrunk toward its diagonal. Every scale is then the one of least squares for
its codes, and the rows are rounded once more for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.methods.hessian import SecondMoment
from kanna.model import F32

SHRINK = 0.2
"""Shrinkage of a second moment that no held-out text has chosen."""
_TRIED = {8: np.linspace(0.9, 1.0, 3), 4: np.linspace(0.5, 1.0, 26)}
"""Shares of the step that holds the largest value, by bits of a weight."""
_COLUMNS = 1024
"""Columns that are worked on at once."""
_ROWS = 64
"""Rows whose errors reach each other at once; those of earlier blocks come as one product."""


@dataclass(frozen=True, slots=True)
class ColumnCodes:
    """A matrix in codes.

    Attributes:
        codes: int8 [in, out]; the lowest code of so many bits is not used.
        scales: f32 [out].
    """

    codes: NDArray[np.int8]
    scales: F32


def choose(weight: F32, second: F32, bits: int) -> ColumnCodes:
    """Codes and scales of a matrix.

    Args:
        weight: f32 [in, out].
        second: Mean of x xᵀ over the inputs x, f32 [in, in].
        bits: Of a code, 4 or 8.
    """
    most = 2 ** (bits - 1) - 1
    (block,) = SecondMoment(lambda: [second], shrink=SHRINK).blocks()
    order, factors = block.factors_for(1)
    parts: list[tuple[NDArray[np.int8], F32]] = []
    for start in range(0, weight.shape[1], _COLUMNS):
        part = np.ascontiguousarray(weight[:, start : start + _COLUMNS], np.float32)
        scales = searched_scales(part, second.diagonal(), bits)
        if factors is None:
            parts.append((_nearest(part, scales, most), scales))
            continue
        best, least = (_nearest(part, scales, most), scales), np.full(part.shape[1], np.inf)
        for _ in range(2):
            codes = _fed_back(part[order], scales, factors, most)
            codes[order] = codes.copy()
            scales = _least_squares(part, codes, block.hessian, scales)
            error = _errors(part, codes * scales, block.hessian)
            better = error < least
            least = np.where(better, error, least)
            best = (np.where(better, codes, best[0]), np.where(better, scales, best[1]))
        parts.append(best)
    return ColumnCodes(
        np.concatenate([codes for codes, _ in parts], axis=1),
        np.concatenate([scales for _, scales in parts]).astype(np.float32),
    )


def searched_scales(weight: F32, squares: F32, bits: int) -> F32:
    """The scale of each column with the least error of rounding to nearest, f32 [out].

    Args:
        weight: f32 [in, out].
        squares: Mean square of every input, f32 [in].
        bits: Of a code, whose lowest one is not used.
    """
    most = 2 ** (bits - 1) - 1
    full = np.maximum(np.abs(weight).max(axis=0), 1e-12) / most
    shares = _TRIED[bits]
    errors = [
        squares @ np.square(_nearest(weight, step, most) * step - weight)
        for step in ((full * share).astype(np.float32) for share in shares)
    ]
    return (full * shares[np.argmin(errors, axis=0)]).astype(np.float32)


def _nearest(weight: F32, scales: F32, most: int) -> NDArray[np.int8]:
    return np.clip(np.rint(weight / scales), -most, most).astype(np.int8)


def _fed_back(weight: F32, scales: F32, factors: F32, most: int) -> NDArray[np.int8]:
    """Codes of rows in their order, int8 [in, out].

    Args:
        weight: f32 [in, out], rows in the order in which they are rounded.
        scales: f32 [out].
        factors: f32 [in, in]: how much of the error of an earlier row, first axis, a later one
            makes up for (native/include/kanna/factors.hpp).
        most: The largest code.
    """
    off, codes = np.zeros_like(weight), np.zeros(weight.shape, np.int8)
    for start in range(0, len(weight), _ROWS):
        stop = min(start + _ROWS, len(weight))
        aims = weight[start:stop] + factors[:start, start:stop].T @ off[:start]
        for row in range(start, stop):
            aim = aims[row - start] + factors[start:row, row] @ off[start:row]
            codes[row] = _nearest(aim, scales, most)
            off[row] = weight[row] - codes[row] * scales
    return codes


def _least_squares(weight: F32, codes: NDArray[np.int8], hessian: F32, scales: F32) -> F32:
    """The scale of each column under which its codes are nearest to it, f32 [out]."""
    wide = codes.astype(np.float32)
    seen = hessian @ wide
    square = np.einsum("io,io->o", wide, seen, dtype=np.float64)
    shared = np.einsum("io,io->o", weight, seen, dtype=np.float64)
    return np.where((square > 0) & (shared > 0), shared / np.maximum(square, 1e-30), scales).astype(
        np.float32
    )


def _errors(weight: F32, rounded: F32, hessian: F32) -> NDArray[np.float64]:
    off = (weight - rounded).astype(np.float32)
    return np.einsum("io,io->o", off, hessian @ off, dtype=np.float64)
