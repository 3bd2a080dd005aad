"""Frequencies of rotary positions, from the metadata of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kanna.errors import UnsupportedError
from kanna.model import F32, Model

FACTORS = "rope_freqs.weight"
_FAST, _SLOW = 32.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How positions turn heads.

    Attributes:
        frequencies: Angle of each pair of values per position, f32 [values that turn / 2].
        scale: What cosine and sine are multiplied with.
    """

    frequencies: F32
    scale: float = 1.0


def rotation(model: Model, head_size: int) -> Rotation:
    """The rotation of a model: plain, linear, yarn, or by factors as those of Llama 3.1.

    Raises:
        UnsupportedError: Its scaling is another one.
    """
    kind = model.meta("{arch}.rope.scaling.type", "none")
    if "rope_factors_long.weight" in model.tensors:
        kind = "longrope"
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedError(
            f"its rotation of positions is of {kind}",
            expected="plain, linear, yarn or as in Llama 3.1",
            todo="write a GGUF instead: --format gguf",
        )
    base = float(model.meta("{arch}.rope.freq_base", 10000.0))
    frequencies = _plain(model, head_size, base)
    factor = np.float32(model.meta("{arch}.rope.scaling.factor", 1.0))
    if kind == "linear":
        return Rotation(frequencies=(frequencies / factor).astype(np.float32))
    if kind == "yarn":
        return _yarn(model, frequencies, base, float(factor))
    if (factors := model.tensors.get(FACTORS)) is not None:
        frequencies = frequencies / factors.rows(0, 1)[0]
    return Rotation(frequencies=frequencies.astype(np.float32))


def window_rotation(model: Model, head_size: int, base: float) -> Rotation:
    """The plain rotation of layers with a window, of a base of their own."""
    return Rotation(frequencies=_plain(model, head_size, base))


def _plain(model: Model, head_size: int, base: float) -> F32:
    """Angles of the values of a head that turn, which may be a part of them."""
    turned = model.whole("{arch}.rope.dimension_count", head_size)
    if not 0 < turned <= head_size or turned % 2:
        raise UnsupportedError(
            f"{turned} of the {head_size} values of a head turn", expected="an even part of them"
        )
    exponent = np.arange(0, turned, 2, dtype=np.float32) / np.float32(turned)
    frequencies = np.float32(1.0) / np.power(np.float32(base), exponent)
    return frequencies.astype(np.float32)


def _yarn(model: Model, frequencies: F32, base: float, factor: float) -> Rotation:
    """Long wavelengths stretched, short ones kept, those between blended (arXiv 2309.00071)."""
    key = "{arch}.rope.scaling"
    size = 2 * len(frequencies)
    trained = float(model.meta(f"{key}.original_context_length"))

    def place(turns: float) -> float:
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = math.floor(place(float(model.meta(f"{key}.yarn_beta_fast", _FAST))))
    high = math.ceil(place(float(model.meta(f"{key}.yarn_beta_slow", _SLOW))))
    low, high = max(low, 0), min(high, size - 1)
    ramp = (np.arange(len(frequencies), dtype=np.float32) - low) / max(high - low, 0.001)
    stretched = np.clip(ramp, 0, 1)
    blended = frequencies / np.float32(factor) * stretched + frequencies * (1 - stretched)
    scale = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    scale *= float(model.meta(f"{key}.attn_factor", 1.0))
    return Rotation(frequencies=blended.astype(np.float32), scale=scale)
