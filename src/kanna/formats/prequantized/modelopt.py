"""NVIDIA's Model-Optimizer: FP8, and NVFP4 with a scale of each group and one of the matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kanna._util.typed import TypedObject, text
from kanna.errors import FormatError, UnsupportedError
from kanna.formats.prequantized import eight_bits, four_bits
from kanna.formats.prequantized.eight_bits import Kinds
from kanna.formats.prequantized.groups import setting
from kanna.formats.prequantized.scaled import float_type, has_values, scalar
from kanna.model import F32, Tensor

_KNOWN = ("NVFP4", "FP8", "MIXED_PRECISION")
_OF_INPUTS = ".pre_quant_scale"


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: A setting has a value that is not read.
        FormatError: The parts of a matrix do not fit together.
    """
    setting(settings, "quant_algo", text(64), _KNOWN)
    number = float_type(tensors.values())
    changed = next((name for name in tensors if name.endswith(_OF_INPUTS)), None)
    if changed is not None:
        raise UnsupportedError(
            f"{changed} multiplies the inputs of a layer, as AWQ of Model-Optimizer leaves it",
            expected="weights that are used as they are",
            todo="use the 16-bit release of this model",
        )
    parts = {f"{name}{end}" for name in tensors if _is_packed(name, tensors) for end in _ENDS}
    decoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _is_packed(name, tensors):
            decoded[name] = _matrix(tensor, tensors, number)
        elif name not in parts:
            decoded[name] = tensor
    return eight_bits.decoded(decoded, Kinds(blocks=[None]))


_ENDS = ("_scale", "_scale_2")


def _is_packed(name: str, tensors: Mapping[str, Tensor]) -> bool:
    return name.endswith(".weight") and tensors[name].dtype == "u8"


def _matrix(codes: Tensor, tensors: Mapping[str, Tensor], number: str) -> Tensor:
    lost = [codes.name + end for end in _ENDS if codes.name + end not in tensors]
    if lost:
        raise FormatError(
            f"{codes.name} is packed and has no scales",
            expected=" and ".join(lost),
            todo="fetch the weights again",
        )
    scales, whole = (tensors[codes.name + end] for end in _ENDS)
    return four_bits.matrices(codes.name, codes, scales, four_bits.NV, number, _times(whole))


def _times(tensor: Tensor) -> Callable[[F32], F32] | None:
    """Scales times the one of their matrix; None where that is 1."""
    factor = scalar(tensor)
    if has_values(tensor) and factor == 1:
        return None

    def multiply(scales: F32) -> F32:
        return scales * factor

    return multiply
