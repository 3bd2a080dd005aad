"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from kanna._util.units import format_size, parse_size, precision_class, share_less
from kanna.errors import UsageError


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (999_900, "999.9 kB"),
        (999_960, "1.0 MB"),
        (999_999, "1.0 MB"),
        (999_960_000, "1.00 GB"),
        (1_500_000_000, "1.50 GB"),
        (999_996_000_000, "1.00 TB"),
        (5e15, "5000.00 TB"),
        (-999_999, "-1.0 MB"),
    ],
)
def test_no_size_is_a_thousand_of_its_unit(size: float, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("text", ["2", "1", "512", "999999", "1.5"])
def test_a_small_number_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no unit"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("2B", 2),
        ("0", 0),
        ("1.5 GiB", 3 * 2**29),
        ("1000000", 10**6),
        ("800M", 8 * 10**8),
        (5, 5),
    ],
)
def test_what_is_clear_is_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("share", "text"), [(0.4, "40 %"), (0.0, "0 %"), (-0.001, "0 %"), (-0.95, "95 % more")]
)
def test_less_than_nothing_is_more(share: float, text: str) -> None:
    assert share_less(share) == text


@pytest.mark.parametrize("bits", [1.0, 2.99, 3.0, 4.99, 5.0, 8.0, 8.52, 9.0, 9.01, 16.03, 32.0])
def test_a_class_names_a_range_that_holds_the_bits(bits: float) -> None:
    text = precision_class(bits)
    low, high = {
        "ultra-low (below 3 bits)": (0, 3),
        "low (3 to 5 bits)": (3, 5),
        "medium (5 to 9 bits)": (5, 9),
        "full (above 9 bits)": (9, 64),
    }[text]
    assert low <= bits <= high
