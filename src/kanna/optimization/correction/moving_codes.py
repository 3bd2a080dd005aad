"""Codes on one line of levels that move to a neighbour (GSQ, arXiv:2604.18556)."""

from __future__ import annotations

from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.model import F32
from kanna.optimization.correction.code_grid import SPAN, CodeGrid
from kanna.optimization.correction.moving_matrix import EncodedMatrix, MovingMatrix

RATE = 0.01
"""First step of a code's offset; it falls to zero."""
START, NEAREST = 0.5, 0.45
"""How much of a weight's distance from its value its offset begins with, and the most of it."""


class MovingCodes(MovingMatrix):
    """Every code has an offset, and moves to its neighbour when that is more than a half."""

    def __init__(self, matrix: EncodedMatrix, grid: CodeGrid, exact: F32) -> None:
        super().__init__(matrix)
        torch, _ = torch_modules()
        away = START * (grid.position(exact) - grid.codes)
        self._first, self._width = (matrix.in_network(part) for part in (grid.first, grid.width))
        self._levels = torch.from_numpy(grid.levels).to(matrix.weight.device)
        self._start = matrix.in_network(grid.codes.astype(np.float32)).to(torch.uint8)
        self._offset = matrix.in_network(away.clip(-NEAREST, NEAREST))

    @classmethod
    def of(cls, matrix: EncodedMatrix, exact: F32) -> MovingCodes | None:
        """A matrix whose codes are levels of a line; None where they are not.

        Args:
            matrix: Where it begins.
            exact: The original's values, [rows, columns] in the file's order.
        """
        grid = CodeGrid.of(matrix.encoding, matrix.data, matrix.columns)
        return cls(matrix, grid, exact) if grid is not None else None

    def values(self) -> Any:
        """Values of the codes, at most one away from the first, by the scales that are there."""
        moved = self._offset.round().clamp_(-1, 1).add_(self._start)
        codes = moved.clamp_(0, len(self._levels) - 1).long()
        places = self._levels[codes].view(*self._first.shape, SPAN)
        on_line = self._first[..., None] + self._width[..., None] * places
        return on_line.view(codes.shape)

    def move(self, signs: Any, speed: float) -> None:
        """Move the offsets; where the line runs down, the other way."""
        along = signs.view(*self._width.shape, SPAN) * self._width.sign()[..., None]
        self._offset -= speed * RATE * along.view(self._offset.shape)
