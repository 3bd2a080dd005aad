"""GPTQ's layout: codes packed along the inputs, zeros along the outputs.

Zeros are stored less one in its first version (AutoGPTQ).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kanna._util.typed import FLAG, TypedObject, text, whole
from kanna.errors import FormatError
from kanna.formats.prequantized.groups import (
    I32,
    Grouped,
    gathered,
    group_size,
    need,
    numbers,
    setting,
    spread_words,
    words,
)
from kanna.formats.prequantized.scaled import NUMBERS, check_scales
from kanna.model import F32, U8, Tensor

_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def unpacked(tensors: Mapping[str, Tensor], settings: TypedObject) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one; `settings` as config.json has them.

    Raises:
        UnsupportedError: A setting has a value that is not read.
        FormatError: The parts of a matrix do not fit together.
    """
    bits = setting(settings, "bits", whole(), (2, 3, 4, 8))
    version = setting(settings, "checkpoint_format", text(64), ("gptq", "gptq_v2"), "gptq")
    less = 1 if version == "gptq" else 0
    return gathered(tensors, _PARTS, lambda base: _matrix(base, tensors, bits, settings, less))


def _matrix(
    base: str, tensors: Mapping[str, Tensor], bits: int, settings: TypedObject, less: int
) -> Grouped:
    weight = tensors[f"{base}.qweight"]
    if len(weight.shape) != 2:
        raise FormatError(
            f"{weight.name} has shape {list(weight.shape)}",
            expected="[inputs * bits / 32, outputs]",
        )
    cols, rows = weight.shape[0] * 32 // bits, weight.shape[1]
    group = group_size(settings, ("group_size",), cols)
    groups = -(-cols // group)
    scales = need(tensors, f"{base}.scales", (groups, rows))
    check_scales(scales, tuple(NUMBERS), zero=True)
    zeros = need(tensors, f"{base}.qzeros", (groups, rows * bits // 32))
    place = tensors.get(f"{base}.g_idx")
    order: I32 | None = None
    usual = np.arange(cols) // group
    if place is not None and getattr(place, "data", None) is not None:
        order = words(need(tensors, f"{base}.g_idx", (cols,))).view(np.int32)
        if order.min() < 0 or order.max() >= groups:
            raise FormatError(
                f"{place.name} names group {int(order.max())}", expected=f"0 to {groups - 1}"
            )
    if order is not None and np.array_equal(order, usual) and cols % group == 0:
        order = None
    elif order is None and cols % group:
        order = usual.astype(np.int32)

    def read(start: int, stop: int) -> tuple[U8, F32, F32]:
        codes = spread_words(words(weight)[:, start:stop].T, bits, cols)
        zero = spread_words(words(zeros), bits, rows)[:, start:stop].T.astype(np.int32)
        zero = (zero + less) & ((1 << bits) - 1)  # as the kernels wrap it
        return codes, numbers(scales)[:, start:stop].T, zero.astype(np.float32)

    return Grouped(
        name=f"{base}.weight",
        shape=(rows, cols),
        bits=bits,
        groups=groups,
        number=scales.dtype,
        read=read,
        nbytes=weight.nbytes + scales.nbytes + zeros.nbytes,
        order=order,
        exact=settings.get("sym", FLAG, False),
    )
