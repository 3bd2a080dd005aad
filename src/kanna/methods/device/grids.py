"""Encodings as grids of values, as native/include/kanna/grids.hpp has them, by tables of bits.

value = d * scale * level - dmin * min. `span` values share a whole scale and minimum, a block has
one d and one dmin. Levels are whole numbers of a range, or a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from kanna.encodings.grouped import nbits
from kanna.encodings.small_floats import E2M1, E4M3, E8M0
from kanna.methods.device.bits import I64, runs, stream, with_high

HALF, BFLOAT, SINGLE = "half", "bfloat", "single"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNumber:
    """A floating-point number of a block: where its bytes begin, and its type."""

    byte: int
    kind: str = HALF


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNumbers:
    """WholeNumbers numbers of the sub-blocks of a block.

    Attributes:
        places: Their bits, int64 [sub-blocks, bits].
        low, high: The range that they may be chosen from.
        added: What is added to the stored number.
        signed: The stored number is in two's complement.
    """

    places: I64
    low: int
    high: int
    added: int = 0
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceGrid:
    """An encoding as error feedback on a device sees it.

    Attributes:
        block: Values of a block.
        block_bytes: Bytes of a block.
        span: Values that share a scale.
        codes: Bits of the codes, int64 [block, bits].
        low, high: Range of levels, where they are whole numbers.
        added: What is added to a code to make its level.
        signed: Codes are in two's complement.
        table: The level of each code, where they are not whole numbers in order.
        d: Factor of the scales; None: 1.
        dmin: Factor of the minima; None: there are none.
        bias: dmin is stored with its sign turned, since what it stands for is added.
        scales, mins: WholeNumbers scales and minima; None: all 1.
        fixed: Bytes of scales that are not chosen, int64 [sub-blocks, 8], and what each byte means.
        zero: Bits of the code of level 0, int64 [1, 8], where blocks have their own.
        moving: How many of d and dmin may be chosen anew.
    """

    block: int
    block_bytes: int
    span: int
    codes: I64
    low: int = 0
    high: int = 0
    added: int = 0
    signed: bool = False
    table: tuple[float, ...] = ()
    d: StoredNumber | None = None
    dmin: StoredNumber | None = None
    bias: bool = False
    scales: WholeNumbers | None = None
    mins: WholeNumbers | None = None
    fixed: tuple[I64, tuple[float, ...]] | None = None
    zero: I64 | None = None
    moving: int = 1

    @property
    def subs(self) -> int:
        """Sub-blocks of a block."""
        return self.block // self.span

    @property
    def levels(self) -> tuple[float, ...]:
        """The table in order of value, each once."""
        return tuple(sorted(set(self.table)))


def _small(block_bytes: int, codes: I64, **more: object) -> DeviceGrid:
    """Grids of one factor per 32 values, at the beginning."""
    return DeviceGrid(
        block=len(codes),
        block_bytes=block_bytes,
        span=len(codes),
        codes=codes,
        d=StoredNumber(byte=0),
        **more,  # type: ignore[arg-type]
    )


def _line(block_bytes: int, codes: I64, high: int) -> DeviceGrid:
    """Grids of a factor and a bias per 32 values."""
    return _small(block_bytes, codes, high=high, dmin=StoredNumber(byte=2), bias=True, moving=2)


IQ4 = tuple(map(float, (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)))
"""Levels of IQ4_NL and IQ4_XS."""
HALVES = tuple(float(value) for value in 2 * E2M1)
"""E2M1, doubled: whole numbers."""


def _six_and_six() -> tuple[I64, I64]:
    """Bits of eight scales and eight minima of 6 bits in the 12 bytes at byte 4 (Q4_K, Q5_K)."""
    j = np.arange(4)[:, None]
    low, two, four = np.arange(6), np.arange(2), np.arange(4)
    byte = 8 * (4 + j)
    first, second = byte + low, byte + 32 + low
    late = byte + 64
    scales = np.concatenate([first, with_high(late + four, byte + 6 + two)])
    mins = np.concatenate([second, with_high(late + 4 + four, byte + 32 + 6 + two)])
    return scales, mins


def _six() -> I64:
    """Bits of sixteen scales of 6 bits in the 12 bytes at byte 96 (Q3_K)."""
    return with_high(runs(96, 4, 8, 16), runs(104, 2, 4, 16))


def _k_line(block_bytes: int, codes: I64, high: int) -> DeviceGrid:
    scales, mins = _six_and_six()
    return DeviceGrid(
        block=256,
        block_bytes=block_bytes,
        span=32,
        codes=codes,
        high=high,
        d=StoredNumber(byte=0),
        dmin=StoredNumber(byte=2),
        scales=WholeNumbers(places=scales, low=0, high=63),
        mins=WholeNumbers(places=mins, low=0, high=63),
        moving=2,
    )


def _q2_k() -> DeviceGrid:
    return DeviceGrid(
        block=256,
        block_bytes=84,
        span=16,
        codes=runs(16, 2, 32, 256),
        high=3,
        d=StoredNumber(byte=80),
        dmin=StoredNumber(byte=82),
        scales=WholeNumbers(places=stream(0, 4, 32)[::2], low=0, high=15),
        mins=WholeNumbers(places=stream(0, 4, 32)[1::2], low=0, high=15),
        moving=2,
    )


def _q3_k() -> DeviceGrid:
    return DeviceGrid(
        block=256,
        block_bytes=110,
        span=16,
        codes=with_high(runs(32, 2, 32, 256), runs(0, 1, 32, 256)),
        low=-4,
        high=3,
        added=-4,
        d=StoredNumber(byte=108),
        scales=WholeNumbers(places=_six(), low=-32, high=31, added=-32),
    )


def _q6_k() -> DeviceGrid:
    return DeviceGrid(
        block=256,
        block_bytes=210,
        span=16,
        codes=with_high(runs(0, 4, 64, 256), runs(128, 2, 32, 256)),
        low=-32,
        high=31,
        added=-32,
        d=StoredNumber(byte=208),
        scales=WholeNumbers(places=stream(192, 8, 16), low=-128, high=127, signed=True),
    )


def _iq4_xs() -> DeviceGrid:
    return DeviceGrid(
        block=256,
        block_bytes=136,
        span=32,
        codes=np.concatenate([runs(8 + 16 * j, 4, 16, 32) for j in range(8)]),
        table=IQ4,
        d=StoredNumber(byte=0),
        scales=WholeNumbers(
            places=with_high(stream(4, 4, 8), stream(2, 2, 8)), low=-32, high=31, added=-32
        ),
    )


def _float(scales: int, group: int, meanings: tuple[float, ...]) -> DeviceGrid:
    """E2M1 codes under scales of a byte each, which stay as they are."""
    places = [runs(scales + group // 2 * j, 4, group // 2, group) for j in range(scales)]
    return DeviceGrid(
        block=scales * group,
        block_bytes=scales * (1 + group // 2),
        span=group,
        codes=np.concatenate(places),
        table=HALVES,
        fixed=(stream(0, 8, scales), meanings),
        moving=0,
    )


def _powers() -> tuple[float, ...]:
    """Half of E8M0, since levels are doubled."""
    return tuple(float(np.ldexp(value, -1)) for value in np.nan_to_num(E8M0.astype(np.float64)))


def _eighths() -> tuple[float, ...]:
    """Half of E4M3 without its sign: what is no number means 0."""
    half = np.nan_to_num(E4M3.astype(np.float64)) / 2
    return tuple(float(value) for value in np.abs(half))


_NIBBLES = 4, 16, 32
_GGML: dict[str, Callable[[], DeviceGrid]] = {
    "q4_0": lambda: _small(18, runs(2, *_NIBBLES), low=-8, high=7, added=-8),
    "q4_1": lambda: _line(20, runs(4, *_NIBBLES), 15),
    "q5_0": lambda: _small(
        22, with_high(runs(6, *_NIBBLES), stream(2, 1, 32)), low=-16, high=15, added=-16
    ),
    "q5_1": lambda: _line(24, with_high(runs(8, *_NIBBLES), stream(4, 1, 32)), 31),
    "q8_0": lambda: _small(34, stream(2, 8, 32), low=-127, high=127, signed=True),
    "iq4_nl": lambda: _small(18, runs(2, *_NIBBLES), table=IQ4),
    "q2_0": lambda: _small(18, stream(2, 2, 64), low=-1, high=2, added=-1),
    "q1_0": lambda: _small(18, stream(2, 1, 128), table=(-1.0, 1.0)),
    "tq2_0": lambda: DeviceGrid(
        block=256,
        block_bytes=66,
        span=256,
        codes=runs(0, 2, 32, 256),
        low=-1,
        high=1,
        added=-1,
        d=StoredNumber(byte=64),
    ),
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": lambda: _k_line(144, runs(16, 4, 32, 256), 15),
    "q5_k": lambda: _k_line(176, with_high(runs(48, 4, 32, 256), runs(16, 1, 32, 256)), 31),
    "q6_k": _q6_k,
    "iq4_xs": _iq4_xs,
    "mxfp4": lambda: _float(1, 32, _powers()),
    "nvfp4": lambda: _float(4, 16, _eighths()),
}
_AFFINE = re.compile(r"affine(\d)g(\d+)(_f16|_f32)?")
_KINDS = {"": (BFLOAT, 2), "_f16": (HALF, 2), "_f32": (SINGLE, 4)}


def _affine(bits: int, group: int, suffix: str) -> DeviceGrid:
    kind, size = _KINDS[suffix]
    byte = group * bits // 8
    return DeviceGrid(
        block=group,
        block_bytes=byte + 2 * size,
        span=group,
        codes=stream(0, bits, group),
        high=2**bits - 1,
        d=StoredNumber(byte=byte, kind=kind),
        dmin=StoredNumber(byte=byte + size, kind=kind),
        bias=True,
        moving=2,
    )


def _nbits(shape: nbits.NBits) -> DeviceGrid:
    middle = 0 if shape.zero else 2 ** (shape.bits - 1)
    byte = shape.code_bytes + shape.scale_bytes
    return DeviceGrid(
        block=shape.group,
        block_bytes=shape.block_bytes,
        span=shape.group,
        codes=stream(0, shape.bits, shape.group),
        low=-middle,
        high=2**shape.bits - 1 - middle,
        added=-middle,
        d=StoredNumber(byte=shape.code_bytes, kind=HALF if shape.half else SINGLE),
        zero=stream(byte, 8, 1) if shape.zero else None,
    )


@cache
def grid_of(name: str) -> DeviceGrid | None:
    """The grid of an encoding by its name; None where devices have none."""
    if name in _GGML:
        return _GGML[name]()
    if match := _AFFINE.fullmatch(name):
        return _affine(int(match[1]), int(match[2]), match[3] or "")
    shape = nbits.parse(name) if name.startswith("nbits") else None
    return _nbits(shape) if shape else None
