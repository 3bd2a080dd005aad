"""AWQ's layout for matrix products (AutoAWQ's GEMM).

Codes and zeros are packed along the outputs, eight to a word in their own order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kanna._util.typed import TypedObject, text, whole
from kanna.errors import FormatError
from kanna.formats.prequantized.groups import (
    U32,
    Grouped,
    gathered,
    group_size,
    need,
    numbers,
    setting,
    words,
)
from kanna.formats.prequantized.scaled import NUMBERS, check_scales
from kanna.model import F32, U8, Tensor

_PARTS = ("qweight", "qzeros", "scales")
# Output k of every eight lies at this nibble.
_NIBBLE = np.array([0, 4, 1, 5, 2, 6, 3, 7], np.uint32)


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: A setting has a value that is not read.
        FormatError: The parts of a matrix do not fit together.
    """
    setting(settings, "bits", whole(), (4,), settings.get("w_bit", whole(), 4))
    setting(settings, "version", text(64), ("gemm", "GEMM"), "gemm")
    return gathered(tensors, _PARTS, lambda base: _matrix(base, tensors, settings))


def _matrix(base: str, tensors: Mapping[str, Tensor], settings: TypedObject) -> Grouped:
    weight = tensors[f"{base}.qweight"]
    if len(weight.shape) != 2:
        raise FormatError(
            f"{weight.name} has shape {list(weight.shape)}", expected="[inputs, outputs / 8]"
        )
    cols, rows = weight.shape[0], weight.shape[1] * 8
    group = group_size(settings, ("group_size", "q_group_size"), cols)
    if cols % group:
        raise FormatError(
            f"the checkpoint has group_size = {group}", expected=f"a divisor of {cols}"
        )
    groups = cols // group
    scales = need(tensors, f"{base}.scales", (groups, rows))
    check_scales(scales, tuple(NUMBERS), zero=True)
    zeros = tensors.get(f"{base}.qzeros")
    if zeros is not None:
        need(tensors, f"{base}.qzeros", (groups, rows // 8))

    def read(start: int, stop: int) -> tuple[U8, F32, F32]:
        codes = _outputs(words(weight), start, stop)
        scale = numbers(scales)[:, start:stop].T
        if zeros is None:
            return codes, scale, np.full(scale.shape, 8, np.float32)
        return codes, scale, _outputs(words(zeros), start, stop).astype(np.float32)

    nbytes = weight.nbytes + scales.nbytes + (zeros.nbytes if zeros else 0)
    return Grouped(
        name=f"{base}.weight",
        shape=(rows, cols),
        bits=4,
        groups=groups,
        number=scales.dtype,
        read=read,
        nbytes=nbytes,
        exact=zeros is None,
    )


def _outputs(packed: U32, start: int, stop: int) -> U8:
    """Codes of outputs [start, stop), uint8 [stop - start, inputs].

    Args:
        packed: Words, uint32 [inputs, outputs / 8].
        start: The first output.
        stop: The one after the last.
    """
    part = packed[:, start // 8 : -(-stop // 8)]
    codes = (part[..., None] >> (4 * _NIBBLE)) & np.uint32(15)
    first = start % 8
    return codes.reshape(len(packed), -1)[:, first : first + stop - start].T.astype(np.uint8)
