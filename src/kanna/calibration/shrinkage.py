"""Shrinkage of a second moment toward its diagonal, chosen by text that is held out of it."""

from __future__ import annotations

import numpy as np

from kanna import encodings, methods
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Tensor, columns, num_rows

CHOICES = (0.05, 0.1, 0.2, 0.4)
DEFAULT = 0.2
"""Shrinkage without held-out text."""
ROWS = 48
"""Rows of a tensor that are quantized to compare choices."""


def choose(tensors: list[Tensor], second: F32, held: F32) -> float:
    """Shrinkage among CHOICES with the least error on the held-out inputs.

    Some rows of each tensor are quantized to four bits under each choice; compared is the mean
    square of the error of their products with the held-out inputs.

    Args:
        tensors: Matrices that read these inputs.
        second: The second moment, f32 [blocks, n, n], in blocks along the diagonal.
        held: Held-out inputs, f16 or f32 [tokens, columns].
    """
    if len(held) == 0:
        return DEFAULT
    cols = columns(tensors[0])
    encoding = encodings.get("q4_k" if cols % 256 == 0 else "q4_0")
    if cols % encoding.block:
        return DEFAULT
    x = np.concatenate([_rows(t) for t in tensors])
    weights = np.concatenate([b.diagonal() for b in second]).astype(np.float32)
    inputs = held.astype(np.float32)
    method = methods.get("gptq")
    costs: dict[float, float] = {}
    for shrink in CHOICES:
        second_moment = SecondMoment(lambda: list(second), shrink=shrink)
        data = method.encode(
            encoding, x, methods.Inputs(weights=weights, second_moment=second_moment)
        )
        out = (encoding.decode(data, cols) - x) @ inputs.T
        costs[shrink] = float(np.mean(np.square(out), dtype=np.float64))
    return min(costs, key=lambda s: costs[s])


def _rows(tensor: Tensor) -> F32:
    """ROWS rows at most, evenly spaced, float32 [rows, columns]."""
    total = num_rows(tensor)
    at = np.unique(np.linspace(0, total - 1, min(ROWS, total)).astype(int))
    return np.concatenate([tensor.rows(int(i), int(i) + 1) for i in at])
