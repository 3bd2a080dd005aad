"""The calibration text that both networks of a correction run, and what each part of it is for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanna.calibration.windows import CalibrationWindows

TOKENS = 16_384
"""Tokens whose products are summed."""
JUDGING = 4096
"""Tokens at most, held out of the statistics, that decide on the learned codes of a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassText:
    """Windows in three parts, one behind the other.

    Attributes:
        ids: All of them, int32 [windows, tokens].
        summed: How many have their products summed.
        learned: With how many codes are learned: those, and more behind them. The rest judges.
    """

    ids: NDArray[np.int32]
    summed: int
    learned: int

    @classmethod
    def of(cls, windows: CalibrationWindows) -> PassText:
        """The text of a calibration: evenly spaced windows first, those held out last.

        Args:
            windows: The calibration text.
        """
        fitted, held = windows.ids[~windows.held], windows.ids[windows.held]
        summed = np.zeros(len(fitted), bool)
        summed[_spaced(len(fitted), TOKENS // windows.ids.shape[1])] = True
        judging = held[_spaced(len(held), JUDGING // windows.ids.shape[1])]
        return cls(
            ids=np.concatenate([fitted[summed], fitted[~summed], judging]),
            summed=int(summed.sum()),
            learned=len(fitted),
        )


def _spaced(available: int, wanted: int) -> NDArray[np.int64]:
    """So many numbers below `available`, at least one if there is one."""
    count = min(available, max(1, wanted))
    return np.unique(np.linspace(0, available - 1, count).astype(np.int64))
