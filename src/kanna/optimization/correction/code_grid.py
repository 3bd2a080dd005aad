"""The grid that the values of encoded rows lie on while their scales are held.

Found through error feedback itself, which knows every encoding: under a second moment of ones each
value is rounded by itself, so far-off values give the ends of the grid, and evenly spread ones its
levels. Nothing here knows how a format packs its codes.
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
    """Value = lowest + width · levels[code].

    Attributes:
        lowest: Of each span of SPAN values, f32 [rows, columns / SPAN].
        width: From its lowest value to its highest.
        levels: From 0 to 1, ascending, f32 [levels].
        codes: Of the values, uint8 [rows, columns].
    """

    lowest: F32
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
        width = high - low
        real = width > 0
        if not real.any():
            return None
        spread = np.random.default_rng(_SEED).random(values.shape, np.float32)
        within = np.asarray(low + spread * width, np.float32)
        reached = encoding.decode(rounded(encoding, within, data), cols)
        levels = _clusters(np.asarray((reached - low)[real] / width[real], np.float32))
        if not 2 <= len(levels) <= LEVELS:
            return None
        middles = (levels[1:] + levels[:-1]) / 2
        place = np.divide(values - low, width, out=np.zeros_like(width), where=real)
        codes = np.searchsorted(middles, place).astype(np.uint8)
        again = low + width * levels[codes]
        if np.abs(again - values).max() > _CLOSE * np.abs(values).max():
            return None
        first = (slice(None), slice(None, None, SPAN))
        return cls(
            lowest=np.ascontiguousarray(low[first]),
            width=np.ascontiguousarray(width[first]),
            levels=levels,
            codes=codes,
        )


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
