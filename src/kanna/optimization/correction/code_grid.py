"""The grid that the values of encoded rows lie on while their scales are held.

Found through error feedback itself, which knows every encoding: under a second moment of ones each
value is rounded by itself, so far-off values give the ends of the grid, and evenly spread ones its
levels. Uneven levels (IQ4_NL, IQ4_XS) lie the other way round under a negative scale, which is told
by the end that is farther from zero. Nothing here knows how a format packs its codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kanna import _native
from kanna.encodings.base import Encoding
from kanna.model import F32, U8

LEVELS = 16
"""Most levels of a grid that is looked for: more bits leave little to choose."""
SPAN = 16
"""Neighbours that share a scale in every encoding."""
_FAR, _CLOSE = 1e3, 1e-4
_SEED = 20260101


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeGrid:
    """Value = first + width · levels[code].

    Attributes:
        first: One end of the line of each span of SPAN values, f32 [rows, columns / SPAN].
        width: From there to the other end; negative where the line runs down.
        levels: From 0 to 1, ascending, f32 [levels].
        codes: Of the values, uint8 [rows, columns].
    """

    first: F32
    width: F32
    levels: F32
    codes: U8

    @classmethod
    def of(cls, encoding: Encoding, data: U8, cols: int) -> CodeGrid | None:
        """The grid of rows uint8 [rows, row bytes]; None where it is not one such line of levels.

        Args:
            encoding: Of the rows.
            data: The rows.
            cols: Values in a row.
        """
        if _native.grids().get(encoding.name) != 1 or encoding.block % SPAN:
            return None
        values = encoding.decode(data, cols)
        far = np.full_like(values, _FAR * max(float(np.abs(values).max()), 1e-30))
        low, high = (
            encoding.decode(rounded(encoding, there, data), cols)
            for there in (values - far, values + far)
        )
        if not (high > low).any():
            return None
        spread = np.random.default_rng(_SEED).random(values.shape, np.float32)
        within = np.asarray(low + spread * (high - low), np.float32)
        reached = encoding.decode(rounded(encoding, within, data), cols)
        down = high > -low
        turned = np.where(down, high, low), np.where(down, low, high)
        lines = (cls._along(*ends, values, reached) for ends in ((low, high), turned))
        return next((grid for grid in lines if grid is not None), None)

    @classmethod
    def _along(cls, first: F32, last: F32, values: F32, reached: F32) -> CodeGrid | None:
        """The grid from `first` to `last`; None where `reached` or `values` lie on no such one."""
        width = last - first
        real = width != 0
        levels = _clusters(np.asarray((reached - first)[real] / width[real], np.float32))
        if not 2 <= len(levels) <= LEVELS:
            return None
        middles = (levels[1:] + levels[:-1]) / 2
        place = np.divide(values - first, width, out=np.zeros_like(width), where=real)
        codes = np.searchsorted(middles, place).astype(np.uint8)
        again = first + width * levels[codes]
        if np.abs(again - values).max() > _CLOSE * np.abs(values).max():
            return None
        each = (slice(None), slice(None, None, SPAN))
        return cls(
            first=np.ascontiguousarray(first[each]),
            width=np.ascontiguousarray(width[each]),
            levels=levels,
            codes=codes,
        )

    def position(self, x: F32) -> F32:
        """Where values [rows, columns] lie among the levels, in codes: 2.5 is between 2 and 3.

        Beyond the ends they lie at the ends.
        """
        first, width = (np.repeat(part, SPAN, axis=1) for part in (self.first, self.width))
        place = np.divide(x - first, width, out=np.zeros_like(width), where=width != 0)
        return np.interp(place, self.levels, np.arange(len(self.levels))).astype(np.float32)


def rounded(encoding: Encoding, x: F32, data: U8) -> U8:
    """Rows with the scales of `data` and the nearest codes to `x`, uint8 [rows, row bytes].

    Args:
        encoding: Of the rows.
        x: Wanted values, [rows, columns].
        data: Rows with the scales, which are not changed.
    """
    size, out = encoding.block, np.array(data).reshape(-1, encoding.block_bytes)
    ones, order = np.eye(size, dtype=np.float32), np.arange(size, dtype=np.int32)
    factors, errors = np.empty_like(ones), np.empty((len(out), 2), np.float32)
    _native.feedback_factors(ones, order, factors, 1)
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, size)
    _native.feedback(
        encoding.name, blocks, out, ones, factors, order, rounds=0, errors=errors, threads=1
    )
    return out.reshape(data.shape)


def _clusters(places: F32) -> F32:
    """The different values among `places` but for rounding errors, ascending."""
    ordered = np.sort(places)
    ends = np.flatnonzero(np.diff(ordered) > 10 * _CLOSE)
    return np.array([part.mean() for part in np.split(ordered, ends + 1)], np.float32)
