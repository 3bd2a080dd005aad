"""Codes of a layer learned together, by what the layer gives.

Feedback chooses one matrix at a time by its products; what a layer does with them (attention,
gates, sums) it does not see. Here the codes of all matrices of a layer, and the factors of their
blocks, move against the gradient of the squared error of the layer's hidden states, from the codes
that are there, behind the quantized layers before it (signed steps through the rounding as in
AutoRound, arXiv:2309.05516).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kanna.calibration.devices import torch_modules
from kanna.encodings.base import Encoding
from kanna.model import F32, U8
from kanna.optimization.correction import moving_codes, moving_matrix, moving_targets
from kanna.optimization.correction.moving_codes import MovingCodes
from kanna.optimization.correction.moving_matrix import EncodedMatrix, MovingMatrix, Ordered
from kanna.optimization.correction.moving_targets import MovingTargets

STEPS, BATCH = 60, 2
"""Steps, and windows of each."""
_SEED = 20260101
_VALUES = 3
"""Goes up when other codes are learned, so that results of before are made again."""
SETTINGS = (
    STEPS,
    BATCH,
    moving_matrix.FACTOR_RATE,
    moving_codes.RATE,
    moving_codes.START,
    moving_codes.NEAREST,
    moving_targets.TARGET_RATE,
    moving_targets.FARTHEST,
    moving_targets.TARGET_START,
    _SEED,
    _VALUES,
)
"""What rows depend on, beside text and layers."""


class LayerRounding:
    """The codes of one layer of the artefact, learned against the original's.

    Attributes:
        layer: The artefact's: a function of hidden states and the number of a window.
        given: Hidden states before it, by window.
        wanted: Hidden states behind the original's.
        learned: How many windows are learned from; the others judge.
        ordered: Brings rows into the order of the network or of the file.
    """

    def __init__(
        self, layer: Any, given: Any, wanted: Any, *, learned: int, ordered: Ordered
    ) -> None:
        self.layer, self.given, self.wanted, self.learned = layer, given, wanted, learned
        self._ordered = ordered
        self._codes, self._targets = list[MovingMatrix](), list[MovingMatrix]()

    def add(self, name: str, encoding: Encoding, data: U8, exact: F32, weight: Any) -> bool:
        """Let a matrix learn, whose weight in the network has the values of `data`.

        Args:
            name: Of the matrix.
            encoding: Of the rows.
            data: Rows, uint8 [rows, row bytes].
            exact: The original's values, [rows, columns].
            weight: The network's parameter.

        Returns:
            Whether its encoding has codes to choose.
        """
        matrix = EncodedMatrix(
            name=name, encoding=encoding, data=data, weight=weight, ordered=self._ordered
        )
        if (codes := MovingCodes.of(matrix, exact)) is not None:
            self._codes.append(codes)
        elif (targets := MovingTargets.of(matrix, exact)) is not None:
            self._targets.append(targets)
        else:
            return False
        return True

    def run(self) -> dict[str, U8]:
        """Rows that bring the layer closer on the windows that judge; {} where none do.

        The network has them afterwards. Codes on lines learn first, vectors behind them, and each
        of both is judged by itself, so that one does not cost what the other gained.
        """
        if self.learned == len(self.given):
            return {}
        return self._closer(self._codes) | self._closer(self._targets)

    def _closer(self, moving: list[MovingMatrix]) -> dict[str, U8]:
        """Rows of matrices that learned together; {} where they are no closer for it."""
        if not moving:
            return {}
        judges = range(self.learned, len(self.given))
        was = self.error(judges)
        self._learn(moving)
        rows = {one.matrix.name: one.rows() for one in moving}
        if self.error(judges) < was:
            return rows
        for one in moving:
            one.matrix.take_over(one.matrix.data)
        return {}

    def error(self, windows: Sequence[int]) -> float:
        """Mean squared error of the layer's hidden states."""
        torch, _ = torch_modules()
        with torch.no_grad():
            return sum(float(self._loss(number)) for number in windows) / len(windows)

    def _loss(self, number: int) -> Any:
        out = self.layer(self.given[number], number)
        return (out - self.wanted[number].to(out.device)).square().mean()

    def _learn(self, moving: list[MovingMatrix]) -> None:
        torch, _ = torch_modules()
        order, random = list[int](), np.random.default_rng(_SEED)
        for one in moving:
            one.matrix.weight.requires_grad_(True)
        for step in range(STEPS):
            if len(order) < BATCH:
                order += random.permutation(self.learned).tolist()
            for number in order[:BATCH]:
                with torch.enable_grad():
                    self._loss(number).backward()
            del order[:BATCH]
            with torch.no_grad():
                for one in moving:
                    one.step(1 - step / STEPS)
        for one in moving:
            one.matrix.weight.requires_grad_(False)
