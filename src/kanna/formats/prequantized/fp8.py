"""8-bit floats of transformers and vLLM (DeepSeek's blocks, AutoFP8).

One scale a matrix, a row or a block of 128 x 128 values, by which the codes are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping

from kanna._util.typed import TypedObject, listed, text, whole
from kanna.errors import FormatError
from kanna.formats.prequantized.eight_bits import Kinds, decoded
from kanna.formats.prequantized.groups import setting
from kanna.formats.prequantized.scaled import POWERS
from kanna.model import Tensor

_SIDE = whole(1, 1 << 20)


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each one of 8-bit floats as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: A setting has a value that is not read.
        FormatError: Weights and scales do not fit together.
    """
    setting(settings, "activation_scheme", text(64), ("dynamic", "static"), "dynamic")
    setting(settings, "expert_dtype", text(64), ("fp8",), "fp8")
    powers = setting(settings, "scale_fmt", text(64), ("float", "ue8m0"), "float") == "ue8m0"
    sides = settings.get("weight_block_size", listed(_SIDE, 2), None)
    if sides is not None and len(sides) != 2:
        raise FormatError(
            f"config.json has weight_block_size = {sides}", expected="two numbers, or none"
        )
    block = None if sides is None else (sides[0], sides[1])
    return decoded(tensors, Kinds(blocks=[block], powers=POWERS if powers else ("f8_e8m0",)))
