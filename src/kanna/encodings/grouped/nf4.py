"""OpenVINO's nf4: 16 values spread as normal weights are, one scale per group.

value = LEVELS[code] * scale. The levels are quantiles of the normal distribution that end at -1
and 1 (QLoRA, arXiv:2305.14314, appendix E); OpenVINO's element type `nf4` has the same. Two codes
lie in a byte, the first of them low, and the scale follows those of its group in half precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kanna.encodings._core import check
from kanna.encodings.base import Encoding
from kanna.encodings.grouped import nibbles
from kanna.errors import UnsupportedError
from kanna.model import F32, U8

GROUPS = (32, 64, 128, 256)
LEVELS: F32 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
_MIDDLES = (LEVELS[1:] + LEVELS[:-1]) * np.float32(0.5)
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
"""Of the scale that holds the largest value; each is followed by least squares."""
_NAME = re.compile(r"nf4g(\d+)")
_SCALE = 2
_VALUES = 1 << 16
"""Values that are worked on at once."""


def name_of(group: int) -> str:
    """Name of the encoding in groups of `group` values."""
    return f"nf4g{group}"


def parse(name: str) -> int | None:
    """Values of a group of the encoding of this name; None for one of another kind.

    UnsupportedError: no such group.
    """
    match = _NAME.fullmatch(name.lower())
    if match is None:
        return None
    if (group := int(match[1])) not in GROUPS:
        raise UnsupportedError(
            f"nf4 has no groups of {group} values",
            expected=" or ".join(map(str, GROUPS)),
            todo="nf4g32, for one",
        )
    return group


def _halves(scales: NDArray[np.floating]) -> F32:
    """Scales as they are stored, f32; those that half precision has not are its largest."""
    return np.minimum(scales, 65504).astype(np.float16).astype(np.float32)


def _codes(x: F32, scales: F32) -> U8:
    """The nearest codes of groups f32 [groups, group] under their scales f32 [groups]."""
    steps = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    return np.searchsorted(_MIDDLES, x * steps[:, None]).astype(np.uint8)


def _searched(x: F32, weights: F32) -> tuple[F32, U8]:
    """Scales f32 [groups] and codes of least error, for values and weights f32 [groups, group]."""
    full = np.abs(x).max(axis=1)
    best, least = _halves(full), np.full(len(x), np.inf)
    codes = _codes(x, best)
    for scales in _tried(x, weights, full):
        candidate = _codes(x, scales)
        error = (weights * np.square(LEVELS[candidate] * scales[:, None] - x)).sum(axis=1)
        better = error < least
        least[better], best[better], codes[better] = (
            error[better],
            scales[better],
            candidate[better],
        )
    return best, codes


def _tried(x: F32, weights: F32, full: F32) -> Iterator[F32]:
    yield _halves(full)
    for share in _SHARES:
        tried = LEVELS[_codes(x, _halves(full * share))]
        square = (weights * tried * tried).sum(axis=1)
        fitted = (weights * tried * x).sum(axis=1)
        yield _halves(np.divide(fitted, square, out=full.copy(), where=square > 0))


def _encode(
    encoding: Encoding, x: F32, method: str, weights: F32 | None, _threads: int, _guessed: bool
) -> U8:
    check(x, method)
    (rows, cols), group = x.shape, encoding.block
    out = np.empty((rows, encoding.row_bytes(cols)), np.uint8)
    importance = (np.ones(cols, np.float32) if weights is None else weights).reshape(-1, group)
    step = max(1, _VALUES // cols)
    for at in range(0, rows, step):
        part = x[at : at + step]
        values = part.reshape(-1, group)
        if method == "nearest":
            scales = _halves(np.abs(values).max(axis=1))
            codes = _codes(values, scales)
        else:
            scales, codes = _searched(values, np.tile(importance, (len(part), 1)))
        packed = nibbles.pack(codes)
        halves = scales.astype("<f2").view(np.uint8).reshape(-1, _SCALE)
        out[at : at + step] = np.concatenate([packed, halves], axis=1).reshape(len(part), -1)
    return out


def _decode(encoding: Encoding, data: U8, cols: int) -> F32:
    blocks = data.reshape(-1, encoding.block_bytes)
    codes = nibbles.unpack(blocks[:, :-_SCALE])
    scales = np.ascontiguousarray(blocks[:, -_SCALE:]).view("<f2").astype(np.float32)
    return (LEVELS[codes] * scales).reshape(-1, cols)


def _encoding(group: int) -> Encoding:
    return Encoding(
        name=name_of(group),
        summary="OpenVINO's nf4: codes of 16 values spread as normal weights are, with a scale per"
        " group",
        label=name_of(group),
        block=group,
        block_bytes=group // 2 + _SCALE,
        encoder=_encode,
        decoder=_decode,
    )


ENCODINGS = tuple(map(_encoding, GROUPS))
