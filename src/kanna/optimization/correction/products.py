"""What a matrix of a quantized network should be: a least-squares fit of the original's products.

The original multiplies W by x; here inputs are y instead, since the matrices before are quantized.
With H = E[y y'], C = E[x y'] and, where the products are added to hidden states that lack r,
D = E[r y'], the error E|W x + r - Q y|^2 of rows Q is, but for a constant, Q H Q' - 2 Q (W C + D)'.
The least has
W + (W (C - H) + D) / H. Half of that step is the target, since all of it fits the
text too closely (QEP, arXiv:2504.09629; asymmetric calibration: GPTAQ, arXiv:2504.02692).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanna import methods
from kanna.encodings.base import Encoding
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, U8

SHARE, DAMPING = 0.5, 0.05
"""Of the step to the least-squares fit; of the mean of the diagonal, added to it."""
F64 = NDArray[np.float64]


@dataclass(slots=True)
class InputProducts:
    """Sums over the tokens of a text at one site, in double precision.

    Attributes:
        second: y y', [columns, columns].
        crossed: x y'.
        residual: r y', [rows, columns], or None.
        count: Tokens.
    """

    second: Any = 0.0
    crossed: Any = 0.0
    residual: Any = None
    count: int = 0

    def add(self, exact: F32, given: F32, off: F32 | None) -> None:
        """Add the tokens of a window.

        Args:
            exact: Inputs in the original, [tokens, columns].
            given: Inputs behind quantized layers.
            off: By how much the hidden states that the products are added to fall short, or None.
        """
        # Products in float32, sums of windows in float64.
        self.second = self.second + (given.T @ given).astype(np.float64)
        self.crossed = self.crossed + (exact.T @ given).astype(np.float64)
        if off is not None:
            product = (off.T @ given).astype(np.float64)
            self.residual = product if self.residual is None else self.residual + product
        self.count += len(given)

    def off(self) -> F64 | None:
        """The sum of r y', or None."""
        return self.residual

    def mean_second(self) -> F32:
        """E[y y'], [columns, columns]."""
        return (self.second / self.count).astype(np.float32)

    def wanted(self, weight: F32, residual: F64 | None) -> F64:
        """W C + D, [rows, columns]."""
        wanted = weight.astype(np.float64) @ (self.crossed / self.count)
        return wanted if residual is None else wanted + residual / self.count

    def target(self, weight: F32, wanted: F64, shrink: float) -> F32:
        """SHARE of the way from the weights to the least-squares fit, [rows, columns]."""
        second = self.second / self.count
        diagonal = second.diagonal().copy()
        damped = (1 - shrink) * second
        np.fill_diagonal(damped, diagonal + DAMPING * max(float(diagonal.mean()), 1e-30))
        step = np.linalg.solve(damped, (wanted - weight.astype(np.float64) @ second).T).T
        return np.ascontiguousarray(weight + SHARE * step, np.float32)

    def errors(self, rows: F32, wanted: F64) -> F64:
        """Q H Q' - 2 Q (W C + D)' of each row: the error but for a constant, [rows]."""
        exact = rows.astype(np.float64)
        return ((exact @ (self.second / self.count) - 2 * wanted) * exact).sum(axis=1)


def corrected(
    encoding: Encoding,
    weight: F32,
    before: U8,
    products: InputProducts,
    *,
    residual: F64 | None,
    shrink: float,
    threads: int,
) -> tuple[U8, int]:
    """Encoded rows with less error behind quantized layers; no row has more than before.

    Args:
        encoding: Of the rows.
        weight: The original's rows, [rows, columns].
        before: The rows as they are encoded now, uint8 [rows, row bytes].
        products: Of their inputs.
        residual: `products.residual` in the order of these rows, or None.
        shrink: Shrinkage of the second moment toward its diagonal.
        threads: Threads to use; the bytes do not depend on them.

    Returns:
        The rows, and how many changed.
    """
    cols = weight.shape[1]
    wanted = products.wanted(weight, residual)
    target = products.target(weight, wanted, shrink)
    second = products.mean_second()
    inputs = methods.Inputs(
        weights=np.ascontiguousarray(second.diagonal()),
        second_moment=SecondMoment(lambda: [second], shrink=shrink),
    )
    data = methods.get("gptq").encode(encoding, target, inputs, threads=threads)
    better = products.errors(encoding.decode(data, cols), wanted) < products.errors(
        encoding.decode(before, cols), wanted
    )
    return np.where(better[:, None], data, before), int(better.sum())
