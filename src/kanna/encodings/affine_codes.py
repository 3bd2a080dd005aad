"""MLX's affine codes: value = scale * code + bias, with a scale and a bias per group of values.

Scales and biases have the type of the weights. Codes lie in 32-bit words, lowest bits first; 3, 5
and 6 bits run on across bytes (mlx/backend/cpu/quantized.cpp).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kanna.model import F32, U8

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
_SMALLEST = np.float32(1e-7)


def rounded(x: F32, dtype: str) -> F32:
    """Round x as `f32`, `f16` or `bf16` holds it; the result is float32."""
    if dtype == "f32":
        return x
    if dtype == "f16":
        return x.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(x).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return nearest.view(np.float32)


def nearest(x: F32, bits: int, group: int, dtype: str) -> tuple[U8, F32, F32]:
    """Quantize float32 [rows, cols] as mx.quantize does.

    The values are first rounded to `dtype`, and the end of larger magnitude is held exactly.

    Returns:
        Codes, uint8 [rows, cols], and scales and biases, float32 [rows, cols / group].
    """
    rows, cols = x.shape
    w = rounded(x, dtype).reshape(rows, cols // group, group)
    low, high = w.min(axis=2), w.max(axis=2)
    top = np.float32((1 << bits) - 1)
    below = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / top, _SMALLEST)
    scale = np.where(below, scale, -scale).astype(np.float32)
    edge = np.where(below, low, high)
    steps = np.rint(edge / scale)
    held = steps != 0
    scale = np.where(held, edge / np.where(held, steps, np.float32(1)), scale).astype(np.float32)
    bias = np.where(held, edge, np.float32(0)).astype(np.float32)
    codes = np.clip(np.rint((w - bias[..., None]) / scale[..., None]), 0, top).astype(np.uint8)
    return codes.reshape(rows, cols), rounded(scale, dtype), rounded(bias, dtype)


def pack(codes: U8, bits: int) -> U8:
    """Codes uint8 [rows, cols] as bytes uint8 [rows, cols * bits / 8]; cols a multiple of 32."""
    rows, cols = codes.shape
    single = np.unpackbits(codes[..., None], axis=2, count=bits, bitorder="little")
    return np.packbits(single.reshape(rows, cols * bits), axis=1, bitorder="little")


def unpack(data: U8, bits: int) -> U8:
    """The codes that `pack` packed."""
    rows = len(data)
    single = np.unpackbits(data, axis=1, bitorder="little").reshape(rows, -1, bits)
    return np.packbits(single, axis=2, bitorder="little")[..., 0]


def values(codes: U8, scales: F32, biases: F32) -> F32:
    """f32 [rows, cols] of codes and the scales and biases of their groups."""
    rows, cols = codes.shape
    each: NDArray[np.float32] = codes.reshape(rows, scales.shape[1], -1).astype(np.float32)
    return (each * scales[..., None] + biases[..., None]).reshape(rows, cols)
