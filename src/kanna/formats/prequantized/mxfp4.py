"""MXFP4 as gpt-oss stores its experts: blocks of 32 values and their scales, E8M0.

`NAME_blocks` [experts, outputs, groups, 16] and `NAME_scales` become NAME, [experts, outputs,
inputs]: rows are outputs, as in every other matrix, where transformers transposes what it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kanna._util.typed import TypedObject
from kanna.errors import FormatError
from kanna.formats.prequantized import four_bits
from kanna.formats.prequantized.scaled import float_type
from kanna.model import Tensor

_BLOCKS, _SCALES = "_blocks", "_scales"


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each pair of blocks and scales as one; no setting says how they are stored.

    Raises FormatError: Blocks and scales do not fit together, or one of them is absent.
    """
    number = float_type(tensors.values())
    tensors_by_name: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind = next((k for k in (_BLOCKS, _SCALES) if name.endswith(k)), "")
        base = name.removesuffix(kind)
        if not kind or (tensor.dtype != "u8" and base + _BLOCKS not in tensors):
            tensors_by_name[name] = tensor
            continue
        other = base + (_SCALES if kind == _BLOCKS else _BLOCKS)
        if other not in tensors or base in tensors:
            raise FormatError(
                f"{name} is in the weights "
                + ("beside " + base if other in tensors else "and not " + other),
                expected=f"{base}{_BLOCKS} and {base}{_SCALES}",
                todo="fetch the weights again, from where the model was published",
            )
        if kind == _BLOCKS:
            tensors_by_name[base] = four_bits.matrices(
                base, tensor, tensors[other], four_bits.MX, number
            )
    return tensors_by_name
