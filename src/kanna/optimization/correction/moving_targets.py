"""Codes that stand for vectors learn by what is rounded to them.

A code of IQ1, IQ2 or IQ3 has no neighbour in one direction: it stands for four or eight values, and
signs and shifts go by rules of their own. So each value has a target, which the gradient moves as
if rounding were not there (straight through, as in AutoRound, arXiv:2309.05516), and error feedback
itself rounds the targets of a group to the nearest vector that the format can store. Scales are
held. Nothing here knows how a format packs its codes.
"""

from __future__ import annotations

from typing import Any

from kanna import _native
from kanna.model import F32
from kanna.optimization.correction.code_grid import SPAN
from kanna.optimization.correction.moving_matrix import EncodedMatrix, MovingMatrix

TARGET_RATE, FARTHEST = 0.02, 2.0
"""First step of a target, which falls to zero, and how far it may go from the first value: in the
error that rounding leaves, a root mean square over the neighbours that share a scale."""
TARGET_START = 0.5
"""How much of a weight's distance from its value its target begins with."""


class MovingTargets(MovingMatrix):
    """Every value has a target; what the file can hold next to the targets is what counts."""

    def __init__(self, matrix: EncodedMatrix, exact: F32) -> None:
        super().__init__(matrix)
        wanted = matrix.in_network(exact)
        self._first = self._values = matrix.decoded(matrix.data)
        left = (wanted - matrix.decoded(matrix.rounded(wanted))).view(len(wanted), -1, SPAN)
        self._unit = left.square().mean(-1, keepdim=True).sqrt()
        self._offset = self._begin(wanted)

    @classmethod
    def of(cls, matrix: EncodedMatrix, exact: F32) -> MovingTargets | None:
        """A matrix whose values are rounded in groups; None where each has a code of its own.

        Args:
            matrix: Where it begins.
            exact: The original's values, [rows, columns] in the file's order.
        """
        grouped = _native.grids().get(matrix.encoding.name, 1) > 1
        return cls(matrix, exact) if grouped else None

    def _begin(self, wanted: Any) -> Any:
        """Offsets on the way to the weights; none where those would be rounded to other vectors."""
        matrix, group = self.matrix, _native.grids()[self.matrix.encoding.name]
        away = (wanted - self._first).view(len(wanted), -1, SPAN)
        offset = (TARGET_START * away / self._unit).nan_to_num_(0, 0, 0)
        offset = offset.clamp_(-FARTHEST, FARTHEST)
        same = matrix.decoded(matrix.rounded(self._targets(offset))) == self._first
        stays = same.view(len(same), -1, group).all(-1).repeat_interleave(group, 1)
        return offset * stays.view(offset.shape)

    def _targets(self, offset: Any) -> Any:
        return self._first + (self._unit * offset).view(self._first.shape)

    def values(self) -> Any:
        """What the file would hold, by the scales that are there."""
        return self._values

    def move(self, signs: Any, speed: float) -> None:
        """Move the targets, and round them again."""
        self._offset -= speed * TARGET_RATE * signs.view(self._offset.shape)
        self._offset.clamp_(-FARTHEST, FARTHEST)
        self._values = self.matrix.decoded(self.matrix.rounded(self._targets(self._offset)))
