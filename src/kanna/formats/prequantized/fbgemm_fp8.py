"""8-bit floats of FBGEMM (Llama 3.1 405B): a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping

from kanna._util.typed import TypedObject
from kanna.formats.prequantized.eight_bits import Kinds, decoded
from kanna.model import Tensor


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each one of 8-bit floats as one; no setting says how they are stored.

    Raises FormatError: Weights and scales do not fit together.
    """
    return decoded(tensors, Kinds(blocks=[None]))
