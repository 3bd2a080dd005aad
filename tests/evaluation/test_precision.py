"""How much text is read: to a precision, or as many windows as were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from kanna.errors import UsageError
from kanna.evaluation.precision import Extent, choose, is_reached, parse


@pytest.mark.parametrize("text", ["5%", "0.05", 0.05, " 5 % "])
def test_shares(text: float | str) -> None:
    assert parse(text) == pytest.approx(0.05)


@pytest.mark.parametrize("text", ["0", "100%", "-1%", "five", "nan", 2])
def test_what_is_no_share_is_refused(text: float | str) -> None:
    with pytest.raises(UsageError, match="precision"):
        parse(text)


def test_windows_fix_how_much_is_read() -> None:
    assert choose(None, None) == Extent(precision=0.05)
    assert choose(None, 4) == Extent(windows=4)
    assert choose("2%", None) == Extent(precision=0.02, thorough=True)
    with pytest.raises(UsageError, match="contradict"):
        choose("2%", 4)


def test_reading_stops_when_the_interval_is_narrow() -> None:
    random = np.random.default_rng(1)
    steady = (0.4 + 0.01 * random.standard_normal(40)).tolist()
    loose = (0.4 + 0.3 * random.standard_normal(40)).tolist()
    assert is_reached([steady], 0.05)
    assert not is_reached([steady, loose], 0.05), "every file must be known that well"
    assert not is_reached([steady[:7]], 0.05), "few windows may agree by chance"
    assert not is_reached([steady], None)
    tiny = (1e-6 * (1 + random.standard_normal(40))).tolist()
    assert is_reached([tiny], 0.05), "no need to know rounding any better"
