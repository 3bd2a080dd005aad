"""Codes of a matrix with one scale per column, the smallest error of what it is multiplied by.

Scales are searched on the mean squares of the inputs. Rows of the matrix are then rounded one by
one, each making up for the errors of those before it (GPTQ, arXiv:2210.17323), under the second
moment of the inputs, shrunk toward its diagonal. Every scale is then the one of least squares for
its codes, and the rows are rounded once more for it. A column that does not gain keeps its search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.encodings.base import Encoding
from kanna.encodings.grouped.channel import (
    RowCodes,
    nearest,
    parse,
    searched_scales,
    stored,
)
from kanna.methods.hessian import HessianBlock, SecondMoment
from kanna.model import F32, U8

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


def encode(encoding: Encoding, x: F32, squares: F32, second_moment: SecondMoment) -> U8:
    """Rows f32 [rows, cols] with a scale each, as `encoding` stores them.

    Args:
        encoding: One of kanna.encodings.grouped.channel.
        x: The values.
        squares: Mean square of every input, f32 [cols].
        second_moment: Of the inputs.
    """
    kind = parse(encoding.name)
    assert kind is not None, encoding.name
    chosen = choose(np.ascontiguousarray(x.T), squares, second_moment, kind)
    return stored(np.ascontiguousarray(chosen.codes.T), chosen.scales, kind)


def choose(weight: F32, squares: F32, second_moment: SecondMoment, kind: RowCodes) -> ColumnCodes:
    """Codes and scales of a matrix, the scales as they are stored.

    Args:
        weight: f32 [in, out].
        squares: Mean square of every input, f32 [in].
        second_moment: Of the inputs.
        kind: Bits of a code, and the type of a scale.
    """
    bits = kind.bits
    blocks = second_moment.blocks()
    parts: list[tuple[NDArray[np.int8], F32]] = []
    for start in range(0, weight.shape[1], _COLUMNS):
        part = np.ascontiguousarray(weight[:, start : start + _COLUMNS], np.float32)
        scales = kind.rounded(searched_scales(part, squares, bits))
        codes = nearest(part, scales, bits)
        best, least = (codes, scales), _errors(part, codes * scales, blocks)
        for _ in range(2):
            codes = np.concatenate([_block_codes(part, scales, block, bits) for block in blocks])
            scales = kind.rounded(_least_squares(part, codes, blocks, scales))
            error = _errors(part, codes * scales, blocks)
            better = error < least
            least = np.where(better, error, least)
            best = (np.where(better, codes, best[0]), np.where(better, scales, best[1]))
        parts.append(best)
    return ColumnCodes(
        np.concatenate([codes for codes, _ in parts], axis=1),
        np.concatenate([scales for _, scales in parts]).astype(np.float32),
    )


def _block_codes(weight: F32, scales: F32, block: HessianBlock, bits: int) -> NDArray[np.int8]:
    """Codes of the rows of a block, int8 [block, out], each making up for those before it."""
    rows = weight[block.start : block.stop]
    order, factors = block.factors_for(1)
    if factors is None:
        return nearest(rows, scales, bits)
    codes = np.empty(rows.shape, np.int8)
    codes[order] = _fed_back(rows[order], scales, factors, bits)
    return codes


def _fed_back(weight: F32, scales: F32, factors: F32, bits: int) -> NDArray[np.int8]:
    """Codes of rows in their order, int8 [in, out].

    Args:
        weight: f32 [in, out], rows in the order in which they are rounded.
        scales: f32 [out].
        factors: f32 [in, in]: how much of the error of an earlier row, first axis, a later one
            makes up for (native/include/kanna/factors.hpp).
        bits: Of a code.
    """
    off, codes = np.zeros_like(weight), np.zeros(weight.shape, np.int8)
    for start in range(0, len(weight), _ROWS):
        stop = min(start + _ROWS, len(weight))
        aims = weight[start:stop] + factors[:start, start:stop].T @ off[:start]
        for row in range(start, stop):
            aim = aims[row - start] + factors[start:row, row] @ off[start:row]
            codes[row] = nearest(aim, scales, bits)
            off[row] = weight[row] - codes[row] * scales
    return codes


def _least_squares(
    weight: F32, codes: NDArray[np.int8], blocks: Sequence[HessianBlock], scales: F32
) -> F32:
    """The scale of each column under which its codes are nearest to it, f32 [out]."""
    square = shared = np.zeros(weight.shape[1])
    for block in blocks:
        rows = slice(block.start, block.stop)
        wide = codes[rows].astype(np.float32)
        seen = block.hessian @ wide
        square = square + np.einsum("io,io->o", wide, seen, dtype=np.float64)
        shared = shared + np.einsum("io,io->o", weight[rows], seen, dtype=np.float64)
    return np.where((square > 0) & (shared > 0), shared / np.maximum(square, 1e-30), scales).astype(
        np.float32
    )


def _errors(weight: F32, rounded: F32, blocks: Sequence[HessianBlock]) -> NDArray[np.float64]:
    off, errors = (weight - rounded).astype(np.float32), np.zeros(weight.shape[1])
    for block in blocks:
        part = off[block.start : block.stop]
        errors += np.einsum("io,io->o", part, block.hessian @ part, dtype=np.float64)
    return errors
