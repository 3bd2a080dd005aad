"""Matrices of 4-bit floats (E2M1), two to a byte, with the scales of their groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kanna.encodings import small_floats
from kanna.errors import FormatError
from kanna.formats.prequantized.scaled import ScaledCodes, need_scales
from kanna.model import F32, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """A kind of groups.

    Attributes:
        group: Values under one scale.
        scales: Types that their scales have.
        carried: The encoding of MLX that holds such groups, where no scale of the matrix is.
    """

    group: int
    scales: tuple[str, ...]
    carried: str


MX = Mode(group=32, scales=("u8", "f8_e8m0"), carried="mxfp4g32")
NV = Mode(group=16, scales=("f8_e4m3",), carried="nvfp4g16")


def matrices(
    name: str,
    codes: Tensor,
    scales: Tensor,
    mode: Mode,
    number: str,
    whole: Callable[[F32], F32] | None = None,
) -> ScaledCodes:
    """Packed matrices as tensors of values.

    Args:
        name: Name of the result.
        codes: Bytes [..., rows, columns / 2], or with the groups as an axis of their own.
        scales: Of each group, [..., rows, groups].
        mode: The kind of groups.
        number: The floating type that the values are meant for.
        whole: What the scales become before use, where the matrix has one too.

    Raises FormatError: Their types or shapes do not fit together, or a scale can be none.
    """
    shape = tuple(codes.shape)
    apart = len(shape) == len(scales.shape) + 1  # [..., rows, groups, bytes of a group]
    if apart and shape[-1] * 2 == mode.group:
        shape = (*shape[:-2], shape[-2] * shape[-1])
    if codes.dtype != "u8" or len(shape) < 2 or 0 in shape or shape[-1] * 2 % mode.group:
        raise FormatError(
            f"{codes.name} holds {codes.dtype} of shape {list(codes.shape)}",
            expected=f"u8, rows of whole groups of {mode.group} values, two to a byte",
            todo="fetch the weights again",
        )
    shape = (*shape[:-1], shape[-1] * 2)
    need_scales(scales, (*shape[:-1], shape[-1] // mode.group), mode.scales)
    return ScaledCodes(
        name=name,
        shape=shape,
        codes=codes,
        table=small_floats.E2M1,
        scales=scales,
        block=(1, mode.group),
        number=number,
        whole=whole,
        carried="" if whole else mode.carried,
    )
