"""torchao, as far as its safetensors hold plain matrices: 8-bit floats, and whole numbers in bytes.

A tensor NAME.weight lies in NAME._weight_qdata, NAME._weight_scale and NAME._weight_zero_point.
Its int4 is laid out for one kernel or another, which alone says what it means, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from kanna._util.typed import OBJECT, TypedObject
from kanna.errors import FormatError, UnsupportedError
from kanna.formats.prequantized import eight_bits
from kanna.formats.prequantized.scaled import (
    INT8,
    NUMBERS,
    ScaledCodes,
    block_of,
    check_scales,
    float_type,
)
from kanna.model import F32, Tensor

_CODES = "._weight_qdata"
_PARTS = ("._weight_scale", "._weight_zero_point")
_INPUTS = "._weight_act_pre_scale"
_TABLES: Mapping[str, F32] = dict(eight_bits.TABLES) | {"i8": INT8}
_KNOWN = (
    "Int8WeightOnlyConfig",
    "Int8DynamicActivationInt8WeightConfig",
    "Int8StaticActivationInt8WeightConfig",
    "Int8DynamicActivationIntxWeightConfig",
    "IntxWeightOnlyConfig",
    "Float8WeightOnlyConfig",
    "Float8DynamicActivationFloat8WeightConfig",
    "Float8StaticActivationFloat8WeightConfig",
)
_OF_SEVERAL = ("FqnToConfig", "ModuleFqnToConfig")
_DEEP = 8


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: They name a layout that is not read.
        FormatError: The parts of a matrix do not fit together.
    """
    kinds = set(_kinds(settings.need("quant_type", OBJECT), 0))
    other = sorted(kinds - set(_KNOWN))
    if other or not kinds:
        raise UnsupportedError(
            f"the checkpoint has quant_type = {other[0] if other else 'none'!r:.80} of torchao",
            expected=", ".join(_KNOWN),
            todo="use the 16-bit release of this model: torchao's other layouts are made for one "
            "kernel each",
        )
    number = float_type(tensors.values())
    decoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base, end = next(
            ((name.removesuffix(e), e) for e in (_CODES, *_PARTS, _INPUTS) if name.endswith(e)),
            (name, ""),
        )
        if end == _CODES:
            decoded[f"{base}.weight"] = _matrix(base, tensor, tensors, number)
        elif end and base + _CODES not in tensors:
            raise FormatError(
                f"{name} is in the weights and not {base}{_CODES}", todo="fetch the weights again"
            )
        elif not end:
            decoded[name] = tensor
    return decoded


def _kinds(value: object, depth: int) -> Iterator[str]:
    """Names of the settings of layers: that of one for all, or those of each."""
    if not isinstance(value, Mapping) or depth > _DEEP:
        return
    name = value.get("_type")
    if isinstance(name, str) and name.endswith("Config") and name not in _OF_SEVERAL:
        yield name
        return
    for inner in value.values():
        yield from _kinds(inner, depth + 1)


def _matrix(base: str, codes: Tensor, tensors: Mapping[str, Tensor], number: str) -> ScaledCodes:
    if base + _INPUTS in tensors:
        raise UnsupportedError(
            f"{base}{_INPUTS} multiplies the inputs of a layer",
            expected="weights that are used as they are",
            todo="use the 16-bit release of this model",
        )
    scales, zeros = (tensors.get(base + part) for part in _PARTS)
    shape = tuple(codes.shape)
    if codes.dtype not in _TABLES or len(shape) != 2 or 0 in shape or scales is None:
        raise FormatError(
            f"{codes.name} holds {codes.dtype} of shape {list(shape)}"
            + (" and has no scales" if scales is None else ""),
            expected=f"rows and columns of i8 or 8-bit floats, and {base}{_PARTS[0]}",
            todo="fetch the weights again",
        )
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    in_groups = groups > 1 and shape[1] % groups == 0
    block = block_of(shape, scales, (1, shape[1] // groups) if in_groups else None)
    check_scales(scales, tuple(NUMBERS))
    if zeros is not None and (zeros.dtype != "i8" or prod(zeros.shape) != prod(scales.shape)):
        raise FormatError(
            f"{zeros.name} holds {zeros.dtype} of shape {list(zeros.shape)}",
            expected=f"i8 of {list(scales.shape)}",
            todo="fetch the weights again",
        )
    return ScaledCodes(
        name=f"{base}.weight",
        shape=shape,
        codes=codes,
        table=_TABLES[codes.dtype],
        scales=scales,
        block=block,
        number=number,
        zeros=zeros,
    )
