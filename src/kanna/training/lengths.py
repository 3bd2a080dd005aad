"""How long examples are, before anything is learned: figures, and a picture for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanna._util.progress import Progress, remark

_BARS = 8
_COLUMNS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of examples, as they are before they are cut.

    Attributes:
        count: Examples.
        median: Of their tokens.
        p90: Nine of ten have no more.
        most: Of the longest.
        limit: Tokens that are read of each.
        cut: Examples that have more.
        bins: Upper end of every bar, and how many examples it holds.
    """

    count: int
    median: int
    p90: int
    most: int
    limit: int
    cut: int
    bins: list[tuple[int, int]]

    def lines(self) -> list[str]:
        """The picture, a line for every bar."""
        tallest = max(count for _, count in self.bins)
        width = len(str(self.bins[-1][0]))
        drawn = [
            f"  ≤ {end:>{width}} tokens {'█' * max(bool(n), round(_COLUMNS * n / tallest))} {n}"
            for end, n in self.bins
        ]
        cut = f"{self.cut} of {self.count} are longer than {self.limit} tokens, and are cut there"
        return [
            f"Lengths of {self.count} examples: half have at most {self.median} tokens, nine of "
            f"ten {self.p90}, the longest {self.most}; {cut}.",
            *drawn,
        ]


def measure(tokens: Sequence[int], limit: int) -> Lengths:
    """Measure lengths.

    Args:
        tokens: Of every example; at least one.
        limit: Tokens that are read of each.
    """
    values = np.array(tokens, dtype=np.int64)
    step = max(1, -(-int(values.max()) // _BARS))
    places = (values - 1).clip(0) // step
    counts = np.bincount(places, minlength=1)
    median, p90 = (int(np.quantile(values, q, method="higher")) for q in (0.5, 0.9))
    return Lengths(
        count=len(values),
        median=median,
        p90=p90,
        most=int(values.max()),
        limit=limit,
        cut=int((values > limit).sum()),
        bins=[((i + 1) * step, int(n)) for i, n in enumerate(counts)],
    )


def tell(lengths: Lengths, below: Sequence[str], progress: Progress) -> None:
    """Show the picture above progress, where there is a terminal.

    Args:
        lengths: What it shows.
        below: Lines below it.
        progress: Where it is shown.
    """
    remark(progress, "\n".join([*lengths.lines(), *below]))
