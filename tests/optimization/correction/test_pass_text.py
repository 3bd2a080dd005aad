"""Which windows a correction sums, learns from, and is judged on."""

from __future__ import annotations

import numpy as np
import pytest

from kanna.calibration.windows import CalibrationWindows
from kanna.optimization.correction import pass_text
from kanna.optimization.correction.pass_text import PassText


def _windows(count: int) -> CalibrationWindows:
    ids = np.arange(count * 4, dtype=np.int32).reshape(count, 4)
    held = np.arange(count) % 4 == 2
    return CalibrationWindows(ids=ids, domains=["prose"] * count, held=held, held_texts=[])


def test_every_window_has_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_text, "TOKENS", 8)
    windows = _windows(9)
    text = PassText.of(windows)
    assert (text.summed, text.learned) == (2, 7)
    fitted = windows.ids[~windows.held]
    assert np.array_equal(text.ids[:2], fitted[[0, 6]])  # evenly spaced
    assert sorted(text.ids[:7].tolist()) == fitted.tolist()
    assert np.array_equal(text.ids[7:], windows.ids[windows.held])


def test_no_more_judge_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_text, "JUDGING", 4)
    text = PassText.of(_windows(12))
    assert len(text.ids) - text.learned == 1
    none = PassText.of(_windows(2))
    assert (none.summed, none.learned, len(none.ids)) == (2, 2, 2)
