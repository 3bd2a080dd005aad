"""The curve of losses beside the bar of training."""

from __future__ import annotations

import math

from kanna.training.loss_curve import drawn


def test_a_bar_for_each_part_of_a_run() -> None:
    assert drawn([]) == drawn([math.nan]) == ""
    assert drawn([3.0]) == drawn([3.0, math.inf]) == "▁" and drawn([2.0, 2.0]) == "▁▁"
    assert drawn([8.0, 1.0, 4.5, math.nan, 2.0]) == "█▁▅▂"
    falling = drawn([100.0 - step for step in range(100)])
    assert len(falling) == 16 and falling[0] == "█" and falling[-1] == "▁"
    assert list(falling) == sorted(falling, reverse=True)
