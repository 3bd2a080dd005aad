"""What the steps of a comparison work on and with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kanna._util.progress import Progress, Silent
from kanna.comparison.result_cache import ResultCache
from kanna.evaluation import Extent
from kanna.model import Model
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonContext:
    """What every step of a comparison works on and with.

    Attributes:
        source: What the artefacts are made of and compared with.
        model: The source as tensors with roles.
        cache: Results of earlier runs.
        text: The file to evaluate on; None: the WikiText-2 test set.
        extent: How much of the text is read.
        threads: Threads of runtimes and kernels; None: as each takes them by default.
        progress: Where progress is reported.
    """

    source: Source
    model: Model
    cache: ResultCache
    text: str | Path | None = None
    extent: Extent = Extent()
    threads: int | None = None
    progress: Progress = field(default_factory=Silent)
