"""Finite values too large for an encoding: named, in place of infinity or a saturated scale."""

from __future__ import annotations

import numpy as np

from kanna.encodings import Encoding
from kanna.errors import EncodingError
from kanna.methods import Inputs, Method
from kanna.model import F32, U8, Tensor, columns, num_rows

LARGEST_HALF = 65504.0
"""Of half precision, which scales of blocks have too: smaller values fit every encoding."""
_LARGEST_SHORT = 3.3895313892515355e38
_BLOCK = 1 << 22
"""Values that are looked at together."""
_LOST = 0.01
"""Share of the largest value that a saturated scale loses at least."""


def largest_of(encoding: str) -> float:
    """The largest finite value of float16 or bfloat16, by its name here."""
    return _LARGEST_SHORT if encoding == "bf16" else LARGEST_HALF


def check_tensor(tensor: Tensor, encoding: str) -> None:
    """Raise EncodingError when a tensor has finite values that `encoding` does not hold.

    Args:
        tensor: Read once, in blocks of rows.
        encoding: `f16` or `bf16`.
    """
    limit, rows = largest_of(encoding), num_rows(tensor)
    step = max(1, _BLOCK // columns(tensor))
    for start in range(0, rows, step):
        values = np.abs(tensor.rows(start, min(rows, start + step)))
        beyond = values[(values > limit) & np.isfinite(values)]
        if beyond.size:
            raise EncodingError(
                f"{tensor.name}: {beyond.size} values (the largest is {beyond.max():g}) are beyond "
                f"{limit:g} and would become infinite in {encoding}",
                expected=f"values that {encoding} holds",
                todo="take a preset that holds larger values, such as bf16, or fp32",
            )


def check(encoding: Encoding, method: Method, x: F32, inputs: Inputs, rows: U8) -> None:
    """Raise EncodingError when finite `x` was too large for `encoding`.

    Args:
        encoding: How the values are stored.
        method: How they were chosen.
        x: The values, float32 [rows, columns].
        inputs: What is known of their inputs.
        rows: `x` encoded.
    """
    limit = largest_of(encoding.name)
    if encoding.name == "f32" or not x.size:
        return
    # Minimum and maximum read the block twice and make no copy of it.
    largest = max(float(x.max()), -float(x.min()))
    if not limit < largest < np.inf:
        return
    cols = x.shape[1]
    if encoding.block > 1 and encoding.decoder is not None:
        # A smaller power of two times the same values takes the same codes, unless a scale
        # was at its end.
        shrink = np.float32(2.0 ** -np.ceil(np.log2(largest)))
        small = encoding.decode(method.encode(encoding, x * shrink, inputs), cols) / shrink
        with np.errstate(invalid="ignore"):
            apart = np.abs(encoding.decode(rows, cols) - small).max()
        if apart <= _LOST * largest:
            return
        what = "are beyond what its scales hold"
    else:
        what = f"are beyond {limit:g} and would become infinite"
    count = int((np.abs(x) > limit).sum())
    raise EncodingError(
        f"{count} of {x.size} values (the largest is {largest:g}) {what} in {encoding.label}",
        expected=f"values that {encoding.label} holds",
        todo="store this tensor as f32 by a rule of a plan, or choose an encoding for all that "
        "holds larger values, such as bf16",
    )
