"""Where a model holds NaN or infinity, in words: the tensor, its first such row, the expert."""

from __future__ import annotations

import numpy as np

from kanna.model import Model, Tensor, columns, num_rows

EXPECTED = "finite values"
TODO = (
    "repair the source, or have zeros in their place: `kanna convert` with --nonfinite zero, to "
    "--format safetensors for other verbs"
)
GROWN = "fetch the source again: its weights are finite, but what they give is beyond float32"
_VALUES = 1 << 22
"""Values that are looked at together."""


def place(tensor: Tensor, start: int, stop: int) -> str:
    """The first of rows [start, stop) that holds NaN or infinity; "" where none does.

    `blk.0.ffn_down_exps.weight, row 7 of expert 2`: rows of a stack are counted in each matrix.
    """
    bad = ~np.isfinite(tensor.rows(start, stop)).all(axis=1)
    if not bad.any():
        return ""
    row = start + int(bad.argmax())
    stacked = tensor.name.endswith("_exps.weight") and len(tensor.shape) == 3
    expert, row = divmod(row, tensor.shape[1]) if stacked else (0, row)
    return f"{tensor.name}, row {row}" + (f" of expert {expert}" if stacked else "")


def first(model: Model, prefix: str) -> str:
    """The first place in the tensors whose names begin so; "" where all values are finite."""
    for name, tensor in model.tensors.items():
        if name.startswith(prefix):
            step = max(1, _VALUES // columns(tensor))
            for start in range(0, num_rows(tensor), step):
                if at := place(tensor, start, min(num_rows(tensor), start + step)):
                    return at
    return ""
