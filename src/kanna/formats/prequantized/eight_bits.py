"""Tensors of 8-bit floats or whole numbers, each with the scales beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from kanna.encodings import small_floats
from kanna.errors import FormatError, UnsupportedError
from kanna.formats.prequantized.scaled import (
    NUMBERS,
    POWERS,
    ScaledCodes,
    block_of,
    check_scales,
    float_type,
)
from kanna.model import F32, Tensor

TABLES: Mapping[str, F32] = {"f8_e4m3": small_floats.E4M3, "f8_e5m2": small_floats.E5M2}
"""Values of the types that weights have."""
SUFFIXES = ("_scale_inv", "_scale")
"""Of the name of a tensor's scales, after its own name."""
ZEROS = "_zero_point"
_OF_INPUTS = (
    "input_zero_point",
    "output_zero_point",
    "input_scale",
    "activation_scale",
    "input_global_scale",
    "output_scale",
)
_OF_CACHE = ("k_scale", "v_scale", "q_scale")
_AGAIN = "fetch the weights again; where they are whole, use the 16-bit release of this model"

Block = tuple[int, int] | None
"""Rows and columns under one scale; None: a scale is of a row, of a matrix or of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """How 8-bit weights may be stored.

    Attributes:
        blocks: What may be under one scale; the shape of the scales says which of them it is.
        powers: Types of scales that mean powers of two.
        tables: Values of the types that weights have.
    """

    blocks: Sequence[Block]
    powers: tuple[str, ...] = ("f8_e8m0",)
    tables: Mapping[str, F32] = field(default_factory=lambda: TABLES)


def decoded(tensors: Mapping[str, Tensor], kinds: Kinds) -> dict[str, Tensor]:
    """The tensors with each one of 8-bit floats or whole numbers as one of values.

    Args:
        tensors: Tensors of the checkpoint, by name.
        kinds: How they may be stored.

    Raises:
        UnsupportedError: Scales could be of several blocks.
        FormatError: A tensor has no scales or two kinds, or scales have no tensor.
    """
    number = float_type(tensors.values())
    scales = {
        name: _scales_of(name, tensors)
        for name, t in tensors.items()
        if t.dtype in kinds.tables and not name.endswith(ZEROS) and not is_of_activations(name)
    }
    taken = {t.name for t in scales.values()}
    tensors_by_name: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in scales:
            zeros = tensors.get(name + ZEROS)
            tensors_by_name[name] = _matrix(tensor, scales[name], zeros, kinds, number)
        elif not (name in taken or is_of_activations(name) or name.removesuffix(ZEROS) in scales):
            tensors_by_name[name] = tensor
    refuse_unused(tensors_by_name)
    return tensors_by_name


def _scales_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The scales beside a tensor of 8-bit floats. Raises FormatError."""
    beside = [tensors[name + end] for end in SUFFIXES if name + end in tensors]
    if len(beside) != 1:
        raise FormatError(
            f"{name} holds 8-bit values and has {'two kinds of' if beside else 'no'} scales",
            expected=f"{name}_scale or {name}_scale_inv",
            todo=_AGAIN,
        )
    return beside[0]


def _matrix(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, kinds: Kinds, number: str
) -> ScaledCodes:
    shape = tuple(codes.shape)
    if len(shape) < 2 or 0 in shape:
        raise FormatError(
            f"{codes.name} of 8-bit values has shape {list(shape)}", expected="matrices"
        )
    size = _block(shape, scales, kinds.blocks)
    check_scales(scales, (*NUMBERS, *kinds.powers))
    if zeros is not None and (zeros.dtype != "i8" or tuple(zeros.shape) != tuple(scales.shape)):
        raise FormatError(
            f"{zeros.name} holds {zeros.dtype} of shape {list(zeros.shape)}",
            expected=f"i8 of {list(scales.shape)}",
            todo=_AGAIN,
        )
    whole_groups = size[1] % 32 == 0 and shape[-1] % 32 == 0
    is_carried = scales.dtype in POWERS and whole_groups and codes.dtype == "f8_e4m3"
    return ScaledCodes(
        name=codes.name,
        shape=shape,
        codes=codes,
        table=kinds.tables[codes.dtype],
        scales=scales,
        block=size,
        number=number,
        zeros=zeros,
        carried="mxfp8g32" if is_carried else "",
    )


def _block(shape: tuple[int, ...], scales: Tensor, blocks: Sequence[Block]) -> tuple[int, int]:
    """The one of some blocks that scales have as many of as matrices of this shape."""
    fit: set[tuple[int, int]] = set()
    refused: FormatError | None = None
    for block in blocks:
        try:
            fit.add(block_of(shape, scales, block))
        except FormatError as error:
            refused = error
    if not fit and refused:
        raise refused
    if len(fit) != 1 and prod(scales.shape) > 1:
        raise UnsupportedError(
            f"{scales.name} could be of blocks of {' or '.join(f'{r} x {c}' for r, c in fit)}",
            expected="groups of settings that differ in the shape of their scales",
            todo="use the 16-bit release of this model",
        )
    return fit.pop()


def is_of_activations(name: str) -> bool:
    """Whether a tensor scales what flows through a layer or its cache: floats do without."""
    last = name.rpartition(".")[2]
    return last in _OF_CACHE or last.endswith(_OF_INPUTS)


def refuse_unused(tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError where 8-bit floats or scales are left: nobody would multiply by them."""
    for name, tensor in tensors.items():
        if tensor.dtype in TABLES:
            raise FormatError(f"{name} holds 8-bit floats and has no scales", todo=_AGAIN)
        base = next((name[: -len(end)] for end in SUFFIXES if name.endswith(end)), "")
        if base in tensors and name.endswith(("weight_scale", "_scale_inv")):
            raise FormatError(
                f"{name} has scales for {base}, which holds {tensors[base].dtype} values",
                expected="8-bit floats",
                todo=_AGAIN,
            )
