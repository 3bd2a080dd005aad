"""Blocks of one encoding rewritten in another that holds the same values exactly.

GGUF's blocks of one scale are affine too: d * (q - 8) is d * q + (-8 d), and -8 d is exact in half
precision. The other way, a group of MLX becomes as many blocks of 32 as it has, where half
precision holds its scale and bias. MXFP4 and NVFP4 are the same codes and scales in both, in
another order of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.encodings import affine_codes, grouped
from kanna.model import F32, U8

F16 = NDArray[np.float16]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A block of 32 of GGUF.

    Bits of a code, and the code that means zero, or None where a minimum is stored.
    """

    bits: int
    zero: int | None = None


_BLOCKS = {
    "q4_0": _Block(bits=4, zero=8),
    "q4_1": _Block(bits=4),
    "q5_0": _Block(bits=5, zero=16),
    "q5_1": _Block(bits=5),
    "q8_0": _Block(bits=8, zero=128),
}


_FLOATS = {"mxfp4": ("mxfp4g32", 255), "nvfp4": ("nvfp4g16", 127)}
"""The same groups in MLX, and the first byte of a scale that both do not read alike."""


def target(name: str) -> str | None:
    """The encoding of MLX that holds the blocks of `name`, of GGUF or its own, or None."""
    if name.startswith(("affine", "mxfp4g", "mxfp8g", "nvfp4g")):
        return name
    if name in _FLOATS:
        return _FLOATS[name][0]
    block = _BLOCKS.get(name)
    return f"affine{block.bits}g32_f16" if block else None


def transcode(source: str, destination: str, data: U8) -> U8 | None:
    """Rewrite rows of encoding `source`, uint8 [rows, row bytes], in encoding `destination`.

    Returns:
        The rows, or None where `destination` cannot hold every value exactly.
    """
    if (
        source.startswith(("mxfp", "nvfp"))
        and source.split("_")[0] == destination.split("_")[0]
        and "g" in destination
    ):
        return data  # the same form: the types differ in how `nearest` computes
    if destination in _FLOATS and source.startswith(_FLOATS[destination][0]):
        return _to_ggml(source, destination, data)
    if source in _FLOATS and destination.startswith(_FLOATS[source][0]):
        return _from_ggml(source, destination, data)
    if source in _BLOCKS and target(source) == destination:
        return _to_affine(source, destination, data)
    if source.startswith("affine") and destination in _BLOCKS:
        return _from_affine(source, destination, data)
    return None


def ggml_form(name: str) -> str | None:
    """The encoding of GGUF that holds the groups of `name`, floats of MLX, or None."""
    return next((ours for ours, (theirs, _) in _FLOATS.items() if name.startswith(theirs)), None)


def _to_ggml(source: str, destination: str, data: U8) -> U8 | None:
    encoding = grouped.get(source)
    assert encoding is not None and encoding.to_grid is not None
    scales = encoding.split(data)[1]
    return encoding.to_grid(data) if scales.max() < _FLOATS[destination][1] else None


def _from_ggml(source: str, destination: str, data: U8) -> U8 | None:
    encoding = grouped.get(destination)
    assert encoding is not None and encoding.from_grid is not None
    rows = encoding.from_grid(data)
    return rows if encoding.split(rows)[1].max() < _FLOATS[source][1] else None


def _to_affine(source: str, destination: str, data: U8) -> U8 | None:
    block, encoding = _BLOCKS[source], grouped.get(destination)
    assert encoding is not None
    codes, scale, bias = _parts(block, data)
    if not np.isfinite(bias).all():
        return None
    rows = len(data)
    return encoding.join(
        [affine_codes.pack(codes, block.bits), scale.view(np.uint8).reshape(rows, -1), _bytes(bias)]
    )


def _bytes(x: F16) -> U8:
    return np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)


def _parts(block: _Block, data: U8) -> tuple[U8, F16, F16]:
    """Codes uint8 [rows, cols], scales and biases float16 [rows, cols / 32], of GGUF rows."""
    rows = len(data)
    size = 2 + (2 if block.zero is None else 0) + 4 * block.bits
    blocks = data.reshape(rows, -1, size)
    scale = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    if block.zero is None:
        bias = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0]
    else:
        with np.errstate(over="ignore"):
            bias = scale * np.float16(-block.zero)
    body = blocks[..., size - 4 * block.bits :]
    codes: U8
    if block.bits == 8:
        codes = np.bitwise_xor(body, np.uint8(128), dtype=np.uint8)  # signed bytes, 128 added
    else:
        nibbles = body[..., -16:]
        codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2, dtype=np.uint8)
        if block.bits == 5:
            codes |= np.unpackbits(body[..., :4], axis=2, bitorder="little") << 4
    return codes.reshape(rows, -1), np.ascontiguousarray(scale), bias


def _from_affine(source: str, destination: str, data: U8) -> U8 | None:
    block, encoding = _BLOCKS[destination], grouped.get(source)
    assert encoding is not None
    bits = int(encoding.settings["bits"])
    if bits > block.bits or (block.zero is not None and bits != block.bits):
        return None
    rows = len(data)
    packed, *numbers = encoding.split(data)
    scale, bias = (_as_f16(n, encoding.planes[1].dtype) for n in numbers)
    if scale is None or bias is None:
        return None
    if block.zero is not None and not np.array_equal(bias, scale * np.float16(-block.zero)):
        return None
    repeats = encoding.block // 32
    parts = [_bytes(np.repeat(scale, repeats, axis=1)).reshape(rows, -1, 2)]
    if block.zero is None:
        parts.append(_bytes(np.repeat(bias, repeats, axis=1)).reshape(rows, -1, 2))
    codes = affine_codes.unpack(packed, bits).reshape(rows, -1, 32)
    if block.bits == 8:
        parts.append(np.bitwise_xor(codes, np.uint8(128), dtype=np.uint8))
    else:
        if block.bits == 5:
            parts.append(np.packbits(codes >> 4 & 1, axis=2, bitorder="little"))
        nibbles = codes & np.uint8(15)
        parts.append(np.bitwise_or(nibbles[..., :16], nibbles[..., 16:] << 4, dtype=np.uint8))
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def _as_f16(data: U8, dtype: str) -> F16 | None:
    """Numbers stored as `dtype` in half precision, or None where it does not hold one of them."""
    values = numbers(data, dtype)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    return rounded if np.array_equal(rounded.astype(np.float32), values) else None


def numbers(data: U8, dtype: str) -> F32:
    """Values stored as `bf16`, `f16` or `f32` in uint8 [rows, bytes]."""
    data = np.ascontiguousarray(data)
    if dtype == "bf16":
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.view(np.float16 if dtype == "f16" else np.float32).astype(np.float32)
