"""MLX's float modes: mxfp4 and mxfp8 in groups of 32 values, nvfp4 in groups of 16.

Codes are E2M1 (mxfp4, nvfp4) or E4M3 (mxfp8), scales E8M0, a power of two, or E4M3 (nvfp4), a byte
each; there is no bias (OCP Microscaling Formats 1.0). `nearest` gives the bytes of
mx.quantize(mode=...) on a CPU, which computes in the type of the weights: bfloat16 in `mxfp4g32`,
float16 in `mxfp4g32_f16`, float32 in `mxfp4g32_f32`; the stored form is the same. `search` also
tries the neighbouring scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanna.encodings._core import check
from kanna.encodings.affine_codes import rounded
from kanna.encodings.base import Decode, Encode, Encoding, Plane
from kanna.encodings.grouped import nibbles
from kanna.encodings.grouped.affine import NUMBERS
from kanna.encodings.small_floats import E2M1, E4M3, E8M0, MAGNITUDES_E2M1, MAGNITUDES_E4M3
from kanna.model import F32, U8

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """bits of a code, values per scale, whether the scale is a power of two."""

    name: str
    bits: int
    group: int
    power: bool

    @property
    def table(self) -> F32:
        return MAGNITUDES_E2M1 if self.bits == 4 else MAGNITUDES_E4M3

    @property
    def highest(self) -> int:
        """The largest scale byte that is a number."""
        return 254 if self.power else 126


MODES = (
    _Mode(name="mxfp4", bits=4, group=32, power=True),
    _Mode(name="mxfp8", bits=8, group=32, power=True),
    _Mode(name="nvfp4", bits=4, group=16, power=False),
)


def _nearest(x: F32, table: F32, *, even: bool) -> U8:
    """Place of the nearest magnitude; a tie goes to the even place, or to the lower one."""
    size = np.abs(x)
    middle = (table[1:] + table[:-1]) * np.float32(0.5)
    index = np.searchsorted(middle, size, side="left")
    if even:
        index += (index % 2 == 1) & (np.searchsorted(middle, size, side="right") > index)
    return index.astype(np.uint8)


def _scale_values(mode: _Mode, scales: U8) -> F32:
    return (E8M0 if mode.power else E4M3)[scales]


def _plain_scales(mode: _Mode, x: F32, number: str) -> U8:
    """Scale bytes [groups] of values [groups, group] as mx.quantize chooses them."""
    size = rounded(np.abs(x).max(axis=1) / mode.table[-1], number)
    if not mode.power:
        return _nearest(size, MAGNITUDES_E4M3, even=True)
    with np.errstate(divide="ignore"):
        power = np.ceil(np.log2(size, dtype=np.float32))
    return (np.clip(np.where(size == 0, 0, power), -127, 127) + 127).astype(np.uint8)


def _codes(mode: _Mode, x: F32, scales: U8, number: str) -> U8:
    """Codes with their signs [groups, group] under scale bytes [groups]."""
    scale = _scale_values(mode, scales)[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = rounded(np.where(scale > 0, x / scale, 0).astype(np.float32), number)
    codes = _nearest(at, mode.table, even=mode.bits == 8)
    negative = np.signbit(at)
    if mode.bits == 4:
        negative &= codes > 0
    return codes | (negative << np.uint8(mode.bits - 1)).astype(np.uint8)


def _searched(mode: _Mode, x: F32, w: F32) -> tuple[U8, U8]:
    """The scales, and codes, of least weighted error among those around the plain ones."""
    first = _plain_scales(mode, x, "f32").astype(np.int64)
    signed = E2M1 if mode.bits == 4 else E4M3
    best = first.astype(np.uint8)
    codes = _codes(mode, x, best, "f32")
    least = np.full(len(x), np.inf)
    for step in (0, -1, 1) if mode.power else (0, -1, 1, -2, 2, -3, 3):
        scales = np.clip(first + step, 0, mode.highest).astype(np.uint8)
        candidate = _codes(mode, x, scales, "f32")
        off = signed[candidate] * _scale_values(mode, scales)[:, None] - x
        error = (w * off * off).sum(axis=1, dtype=np.float64)
        better = error < least
        least[better], best[better], codes[better] = (
            error[better],
            scales[better],
            candidate[better],
        )
    return best, codes


def _encoder(mode: _Mode, number: str) -> Encode:
    def encode(
        encoding: Encoding, x: F32, method: str, weights: F32 | None, threads: int, guessed: bool
    ) -> U8:
        check(x, method)
        rows, cols = x.shape
        out = np.empty((rows, encoding.row_bytes(cols)), np.uint8)
        step = max(1, _BLOCK // cols)
        for at in range(0, rows, step):
            part = x[at : at + step]
            groups = part.reshape(-1, mode.group)
            if method == "nearest":
                groups = rounded(groups, number)
                scales = _plain_scales(mode, groups, number)
                codes = _codes(mode, groups, scales, number)
            else:
                w = np.ones(cols, np.float32) if weights is None else weights
                scales, codes = _searched(
                    mode, groups, np.tile(w.reshape(-1, mode.group), (len(part), 1))
                )
            if mode.bits == 4:
                codes = nibbles.pack(codes)
            out[at : at + step] = np.concatenate([codes, scales[:, None]], axis=1).reshape(
                len(part), -1
            )
        return out

    return encode


def _decoder(mode: _Mode) -> Decode:
    def decode(encoding: Encoding, data: U8, cols: int) -> F32:
        blocks = data.reshape(-1, encoding.block_bytes)
        codes, scales = blocks[:, :-1], blocks[:, -1]
        if mode.bits == 4:
            codes = nibbles.unpack(codes)
        values = (E2M1 if mode.bits == 4 else E4M3)[codes] * _scale_values(mode, scales)[:, None]
        return values.reshape(-1, cols).astype(np.float32)

    return decode


def name_of(mode: str, number: str = "bf16") -> str:
    """Name of the encoding of `mode` whose `nearest` computes in `number`."""
    known = next(m for m in MODES if m.name == mode)
    return f"{mode}g{known.group}" + ("" if number == "bf16" else f"_{number}")


def _to_ggml(per: int, group: int) -> Callable[[U8], U8]:
    """Rows of ours as blocks of ggml of `per` groups.

    Scales first, then codes half a group apart in a byte.
    """

    def convert(data: U8) -> U8:
        blocks = data.reshape(len(data), -1, per, group // 2 + 1)
        codes = nibbles.unpack(blocks[..., :-1])
        packed = np.bitwise_or(
            codes[..., : group // 2], codes[..., group // 2 :] << 4, dtype=np.uint8
        )
        parts = [blocks[..., -1], packed.reshape(*blocks.shape[:2], -1)]
        return np.concatenate(parts, axis=2).reshape(len(data), -1)

    return convert


def _from_ggml(per: int, group: int) -> Callable[[U8], U8]:
    def convert(data: U8) -> U8:
        blocks = data.reshape(len(data), -1, per * (group // 2 + 1))
        packed = blocks[..., per:].reshape(*blocks.shape[:2], per, group // 2)
        codes: U8 = np.concatenate([packed & 15, packed >> 4], axis=3, dtype=np.uint8)
        return np.concatenate([nibbles.pack(codes), blocks[..., :per, None]], axis=3).reshape(
            len(data), -1
        )

    return convert


def _encoding(mode: _Mode, number: str) -> Encoding:
    codes = mode.group * mode.bits // 8
    per = 4 if mode.name == "nvfp4" else 1
    return Encoding(
        name=name_of(mode.name, number),
        summary=(
            "MLX's float modes: mxfp4 and mxfp8 with a power of two per 32 values, nvfp4 with an "
            "8-bit float per 16"
        ),
        label=f"{mode.name} g{mode.group}",
        block=mode.group,
        block_bytes=codes + 1,
        encoder=_encoder(mode, number),
        decoder=_decoder(mode),
        planes=(
            Plane(name="weight", dtype="u32", bytes=codes),
            Plane(name="scales", dtype="u8", bytes=1),
        ),
        settings={"group_size": mode.group, "bits": mode.bits, "mode": mode.name},
        # Error feedback knows these groups in ggml's layout.
        grid=mode.name if mode.bits == 4 else "",
        to_grid=_to_ggml(per, mode.group) if mode.bits == 4 else None,
        from_grid=_from_ggml(per, mode.group) if mode.bits == 4 else None,
    )


ENCODINGS = tuple(_encoding(mode, number) for number in NUMBERS for mode in MODES)
