"""The first thing to run: a comparison of a small model that needs nothing but a package cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kanna._util.progress import Progress
from kanna.comparison import CompareResult, compare
from kanna.sources import packages

SOURCE = "builtin:stories15m"
PRESETS = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K")


def demo(
    out: str | Path = "out",
    *,
    presets: Sequence[str] = PRESETS,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    remark: Callable[[str], None] | None = None,
) -> CompareResult:
    """Convert, check, measure and report stories15M, a true 16-bit model of 30 M parameters.

    It is evaluated on stories of the kind that it writes: to it, an encyclopedia is noise.

    Args:
        out: The folder for files and report.
        presets: What is made of it.
        threads: Threads to use; None: one per physical core.
        overwrite: Make every file again.
        progress: Where progress is reported; None: a bar in terminals and notebooks.
        remark: Called with a sentence about each finished step.
    """
    return compare(
        SOURCE,
        presets=presets,
        out=out,
        text=packages.stories_text(),
        threads=threads,
        overwrite=overwrite,
        progress=progress,
        remark=remark,
    )
