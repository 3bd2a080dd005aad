"""compressed-tensors: every format of it whose weights are dense, in groups of settings or one.

Which group a matrix belongs to is read off the types and shapes of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kanna._util.typed import TypedObject, either, listed, text, whole
from kanna.errors import FormatError, UnsupportedError
from kanna.formats.prequantized import eight_bits, four_bits, packed_words
from kanna.formats.prequantized.eight_bits import Block, Kinds
from kanna.formats.prequantized.groups import gathered, setting
from kanna.formats.prequantized.scaled import (
    INT8,
    POWERS,
    ScaledCodes,
    float_type,
    has_values,
    scalar,
)
from kanna.model import F32, Tensor

WORDS = "pack-quantized"
EIGHT = ("float-quantized", "int-quantized", "naive-quantized", "mxfp8-quantized")
FOUR = {"mxfp4-pack-quantized": four_bits.MX, "nvfp4-pack-quantized": four_bits.NV}
MIXED = "mixed-precision"
_FOUR_PARTS = ("weight_packed", "weight_scale", "weight_global_scale")
_SIDE = whole(1, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupSettings:
    """Settings of some matrices."""

    format: str
    bits: int
    block: Block


def shapes_need_values(settings: TypedObject) -> bool:
    """Whether words may hold codes of several widths: their columns are among the values."""
    return len({group.bits for group in _groups(settings) if group.format == WORDS}) > 1


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: A setting has a value that is not read.
        FormatError: The parts of a matrix do not fit together.
    """
    groups = list(_groups(settings))
    if not groups:
        raise FormatError("config.json has no group of weights in config_groups")
    formats = {group.format for group in groups}
    decoded = dict(tensors)
    for base in [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]:
        _refuse_other(base, tensors, formats)
    if WORDS in formats:
        widths = sorted({group.bits for group in groups if group.format == WORDS})
        packed = {n: t for n, t in decoded.items() if not _is_four(n, tensors)}
        rest = {n: t for n, t in decoded.items() if n not in packed}
        decoded = packed_words.unpacked(packed, widths) | rest
    for name, mode in FOUR.items():
        if name in formats:
            decoded = _four_bits(decoded, mode)
    blocks = list(dict.fromkeys(g.block for g in groups if g.format in EIGHT))
    tables = dict(eight_bits.TABLES) | {"i8": INT8}
    kinds = Kinds(blocks=blocks, powers=POWERS, tables=tables if blocks else {})
    return eight_bits.decoded(decoded, kinds)


def _groups(settings: TypedObject) -> Iterator[_GroupSettings]:
    """The groups whose weights are packed."""
    known = (WORDS, *EIGHT, *FOUR)
    general = setting(settings, "format", text(64), (*known, MIXED))
    for key in ("transform_config", "sparsity_config"):
        part = settings.part(key)
        if part.values and part.values.get("format") != "dense":
            raise UnsupportedError(
                f"the checkpoint has a {key}",
                expected="dense weights that no other matrix multiplies",
                todo="use the 16-bit release of this model",
            )
    named = settings.part("config_groups")
    for name in named.values:
        group = named.part(name)
        weights = group.part("weights")
        if not weights.values:
            continue
        default = None if general == MIXED else general
        yield _group(setting(group, "format", text(64), known, default), weights)


def _group(form: str, weights: TypedObject) -> _GroupSettings:
    kind = "int" if form in (WORDS, "int-quantized") else "float"
    if form == "naive-quantized":
        setting(weights, "type", text(64), ("int", "float"), "int")
    else:
        setting(weights, "type", text(64), (kind,), "int" if form == WORDS else kind)
    known = (2, 3, 4, 5, 6, 8) if form == WORDS else (4, 8) if "int" in form else (8,)
    known = (4,) if form in FOUR else (4, 8) if form == "naive-quantized" else known
    bits = setting(weights, "num_bits", whole(), known)
    strategy = weights.get("strategy", text(64), "")
    block: Block = None
    if strategy == "block":
        block = _structure(weights)
    elif strategy == "group":
        block = (1, weights.need("group_size", _SIDE))
    return _GroupSettings(format=form, bits=bits, block=block)


def _structure(weights: TypedObject) -> tuple[int, int]:
    """Rows and columns of a block: a list, or the two with an x between them."""
    given = weights.need("block_structure", either(listed(_SIDE, 2), text(32)))
    sides = given.split("x") if isinstance(given, str) else given
    numbers = [int(side) for side in sides if str(side).isdecimal() and int(side)]
    if len(sides) != 2 or len(numbers) != 2:
        raise FormatError(f"config.json has block_structure = {given!r}", expected="[128, 128]")
    return numbers[0], numbers[1]


def _is_four(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is a part of a matrix of 4-bit floats."""
    packed = tensors.get(f"{name.rpartition('.')[0]}.weight_packed")
    return packed is not None and packed.dtype == "u8"


def _mode(base: str, tensors: Mapping[str, Tensor]) -> str:
    """The format that a packed matrix is stored in, by its parts."""
    if tensors[f"{base}.weight_packed"].dtype != "u8":
        return WORDS
    return f"{'nvfp4' if f'{base}.weight_global_scale' in tensors else 'mxfp4'}-{WORDS}"


def _refuse_other(base: str, tensors: Mapping[str, Tensor], formats: set[str]) -> None:
    if (form := _mode(base, tensors)) not in formats:
        raise FormatError(
            f"{base} is stored as {form}, which config.json does not name",
            expected=" or ".join(sorted(formats)),
            todo="fetch config.json and the weights again, from one place",
        )


def _four_bits(tensors: Mapping[str, Tensor], mode: four_bits.Mode) -> dict[str, Tensor]:
    """The tensors with each matrix of 4-bit floats in this mode as one."""
    number = float_type(tensors.values())
    mine = {
        name: tensor
        for name, tensor in tensors.items()
        if not _is_four(name, tensors) or FOUR[_mode(name.rpartition(".")[0], tensors)] is mode
    }
    others = {name: tensor for name, tensor in tensors.items() if name not in mine}
    return gathered(mine, _FOUR_PARTS, lambda base: _matrix(base, mine, mode, number)) | others


def _matrix(
    base: str, tensors: Mapping[str, Tensor], mode: four_bits.Mode, number: str
) -> ScaledCodes:
    scales = tensors.get(f"{base}.weight_scale")
    if scales is None:
        raise FormatError(
            f"{base}.weight_packed has no scales",
            expected=f"{base}.weight_scale",
            todo="fetch the weights again",
        )
    divided = None
    if mode is four_bits.NV:
        divided = _by(tensors[f"{base}.weight_global_scale"])
    name, codes = f"{base}.weight", tensors[f"{base}.weight_packed"]
    return four_bits.matrices(name, codes, scales, mode, number, divided)


def _by(tensor: Tensor) -> Callable[[F32], F32] | None:
    """Scales divided by the one of their matrix; None where that is 1."""
    factor: Any = scalar(tensor)
    if has_values(tensor) and factor == 1:
        return None

    def divide(scales: F32) -> F32:
        return scales / factor

    return divide
