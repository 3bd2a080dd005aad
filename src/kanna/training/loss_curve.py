"""The losses of a run so far, in some characters of a terminal's line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_LEVELS = "▁▂▃▄▅▆▇█"
_COLUMNS = 16


def drawn(losses: Sequence[float]) -> str:
    """A bar for each part of a run, the highest mean the tallest; nothing without a loss.

    Args:
        losses: Of every step; those that are no number are left out.
    """
    known = np.array([loss for loss in losses if math.isfinite(loss)])
    if not len(known):
        return ""
    means = [float(part.mean()) for part in np.array_split(known, min(len(known), _COLUMNS))]
    low, span = min(means), max(means) - min(means)
    return "".join(
        _LEVELS[round((mean - low) / span * (len(_LEVELS) - 1)) if span else 0] for mean in means
    )
