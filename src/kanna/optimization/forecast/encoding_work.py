"""CPU seconds of encoding: what `search` and `gptq` take for a weight of every encoding.

The times beside the shapes were measured on one core (benchmarks/gguf/gptq_speed.py); the rates of
a machine scale them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kanna import encodings
from kanna.encodings.grouped import channel
from kanna.optimization.forecast.rates import MachineRates

# Encodings by their first letters → searches of Q4_K that one search takes, and columns that a
# weight counts for beside those of its row: what does not grow with the columns.
_KINDS = {
    "iq1": (25.0, 2450),
    "iq2": (8.5, 730),
    "iq3_xxs": (14.5, 1330),
    "iq3_s": (9.7, 950),
    "iq4": (1.4, 200),
    "q8_0": (0.25, 130),
}
_PLAIN = (0.8, 200)
_GROWS = 0.82
"""Of the time at 1024 columns, the part that grows with them."""
_CUBES, _SQUARES = 0.43, 650.0
"""Of a factor of 1024 columns, the part that grows with their cube, and what grows with their
square, as operations for each."""

_TAKEN = (
    "iq1_s",
    "iq1_m",
    "iq2_xxs",
    "iq2_xs",
    "iq2_s",
    "iq3_xxs",
    "iq3_s",
    "iq4_xs",
    "q5_k",
    "q6_k",
)
"""What plans take: others of about as many bits come less close."""
_CHANNEL_STEP, _CHANNEL_PASS, _CHANNEL_PASSES = 80, 1900, 2
"""Bytes read and written of a weight with a scale per channel: for each step that is tried, and for
each of the passes that round it."""
_CHANNEL_PRODUCTS = 6
"""Operations of such a pass, for each weight and column."""
_CHANNEL_ROW, _CHANNEL_OUTPUTS = 1.2e-4, 1024
"""CPU seconds of Python for an input of so many outputs, in each pass."""
_SPREAD = 1.5
"""Bits that matrices of a plan have more or fewer than all weights have on average."""


def _kind(name: str) -> tuple[float, int]:
    return next((v for start, v in _KINDS.items() if name.startswith(start)), _PLAIN)


def vectors(name: str) -> bool:
    """Whether codes of an encoding stand for several values, so that columns go together."""
    return name.startswith(("iq1", "iq2", "iq3"))


def search_seconds(name: str, weights: float, rates: MachineRates) -> float:
    """CPU seconds of `search`."""
    if (bits := channel.bits_of(name)) is not None:
        return weights * _CHANNEL_STEP * len(channel.TRIED[bits]) / rates.copied
    if encodings.get(name).block == 1:
        return weights * 8 / rates.copied
    return weights * _kind(name)[0] / rates.search


def gptq_seconds(name: str, weights: float, block: int, rates: MachineRates) -> float:
    """CPU seconds of `gptq` for weights in blocks of so many columns, without factors."""
    if encodings.get(name).block == 1:
        return weights * 8 / rates.copied
    if channel.bits_of(name) is not None:
        return search_seconds(name, weights, rates) + _channel_passes(weights, block, rates)
    passes = weights * (_GROWS * block + _kind(name)[1]) / rates.feedback
    return search_seconds(name, weights, rates) + passes


def _channel_passes(weights: float, block: int, rates: MachineRates) -> float:
    """CPU seconds of the passes of kanna.methods.channel_codes."""
    parts = math.ceil(weights / block / _CHANNEL_OUTPUTS)
    each = weights * _CHANNEL_PRODUCTS * block / rates.products
    each += weights * _CHANNEL_PASS / rates.copied
    return _CHANNEL_PASSES * (each + rates.slowness * _CHANNEL_ROW * block * parts)


def factor_seconds(columns: int, block: int, rates: MachineRates) -> float:
    """CPU seconds of the factors of a second moment in blocks along its diagonal."""
    each = _CUBES * block**3 + _SQUARES * block**2
    return max(1, columns // block) * each / rates.factor


def nearest(bits: float, columns: int, candidates: Sequence[str]) -> str:
    """The candidate nearest to so many bits, of those whose blocks divide the columns."""
    able = [n for n in candidates if columns % encodings.get(n).block == 0]
    return min(able, key=lambda name: abs(encodings.get(name).bits - bits), default="f16")


def mixture(bits: float, columns: int, candidates: Sequence[str]) -> Mapping[str, float]:
    """The share of the weights in each encoding, in a plan of so many bits per weight.

    Matrices that matter more get more bits and others fewer, so that at 4.6 bits many are in
    vectors of three, which take several times as long to choose.

    Args:
        bits: On average.
        columns: Of the matrices.
        candidates: Encodings to choose from.
    """
    near = {
        name: 1 - abs(encodings.get(name).bits - bits) / _SPREAD
        for name in _TAKEN
        if name in candidates and columns % encodings.get(name).block == 0
    }
    total = sum(share for share in near.values() if share > 0)
    if not total:
        return {nearest(bits, columns, candidates): 1.0}
    return {name: share / total for name, share in near.items() if share > 0}
