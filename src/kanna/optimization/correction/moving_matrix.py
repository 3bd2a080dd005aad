"""A matrix of a layer whose values learn: what every way of moving them shares.

The factor of each block moves beside the codes where the format holds one by itself, and is
multiplied into the rows at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.encodings.base import Encoding
from kanna.families import gguf_view, hf_view
from kanna.model import F32, U8
from kanna.optimization.correction.code_grid import rounded
from kanna.plan.tuning import factors, scaled

FACTOR_RATE = 5e-4
"""First step of the factor of a block; it falls to zero."""

Ordered = Callable[[Any, str, F32], F32]
"""Rows of a matrix in another order: of a view (`hf_view`, `gguf_view`), a name and rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedMatrix:
    """A matrix of the file, and the network's parameter with its values.

    Attributes:
        name: Of the matrix.
        encoding: Of the rows.
        data: Rows, uint8 [rows, row bytes].
        weight: The parameter, [rows, columns].
        ordered: Brings rows into the order of the network or of the file.
    """

    name: str
    encoding: Encoding
    data: U8
    weight: Any
    ordered: Ordered

    @property
    def columns(self) -> int:
        """Values of a row."""
        return int(self.weight.shape[1])

    def in_network(self, rows: F32) -> Any:
        """Rows in the network's order, as a tensor where it is."""
        torch, _ = torch_modules()
        ours = np.array(self.ordered(hf_view, self.name, rows))
        return torch.from_numpy(ours).to(self.weight.device)

    def in_file(self, rows: Any) -> F32:
        """Rows of a tensor in the file's order."""
        return self.ordered(gguf_view, self.name, rows.cpu().numpy())

    def rounded(self, wanted: Any) -> U8:
        """Encoded rows with the scales of `data` that are nearest to a tensor [rows, columns]."""
        return rounded(self.encoding, self.in_file(wanted), self.data)

    def decoded(self, data: U8) -> Any:
        """What encoded rows give in the network."""
        return self.in_network(self.encoding.decode(data, self.columns))

    def take_over(self, data: U8) -> None:
        """Give the network the values of encoded rows."""
        torch, _ = torch_modules()
        with torch.no_grad():
            self.weight.copy_(self.decoded(data))


class MovingMatrix(ABC):
    """A matrix that learns, in the order of the network.

    Attributes:
        matrix: Where it began.
    """

    def __init__(self, matrix: EncodedMatrix) -> None:
        torch, _ = torch_modules()
        self.matrix, self._scales = matrix, bool(factors(matrix.encoding))
        blocks = matrix.columns // matrix.encoding.block
        self._theta = torch.zeros((len(matrix.data), blocks), device=matrix.weight.device)

    @abstractmethod
    def values(self) -> Any:
        """Values by the scales that are there, [rows, columns]; rounded they stay the same."""

    @abstractmethod
    def move(self, signs: Any, speed: float) -> None:
        """Move what the values come from against the signs of the gradient [rows, columns]."""

    def step(self, speed: float) -> None:
        """Follow the sign of the gradient, which is taken."""
        weight = self.matrix.weight
        gradient, weight.grad = weight.grad, None
        if gradient is None:
            return  # what it gives goes to other layers alone
        shape = (*self._theta.shape, -1)
        if self._scales:
            by_block = (gradient.view(shape) * self.values().view(shape)).sum(-1)
            self._theta -= speed * FACTOR_RATE * by_block.sign()
        self.move(gradient.sign_(), speed)
        blocks = self.values().view(shape)
        weight.copy_((blocks * (1 + self._theta)[..., None]).view(weight.shape))

    def rows(self) -> U8:
        """The rows of what was learned; the network gets what they decode to."""
        matrix, data = self.matrix, self.matrix.rounded(self.values())
        if self._scales:
            theta = matrix.in_file(self._theta).astype(np.float16)
            data = scaled(matrix.encoding, data, matrix.columns, theta)
        matrix.take_over(data)
        return data
