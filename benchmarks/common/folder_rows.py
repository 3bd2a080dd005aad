"""Rows about a peer's folder and what as many bytes cost us."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from benchmarks.common.folder_scoring import Scorer, mean
from benchmarks.common.workload import Workload


class OurSide(Protocol):
    """What makes our folders of one format."""

    @property
    def workload(self) -> Workload:
        """The model that they are made of."""
        ...

    @property
    def scorer(self) -> Scorer:
        """What scores folders of this format."""
        ...

    def plan(self, nbytes: int, out: Path) -> Path:
        """Our allocation of at most so many bytes."""
        ...

    def tuned(self, planned: Path, out: Path) -> Path:
        """The planned folder tuned, as `--effort max` does."""
        ...


def nbytes(folder: Path, pattern: str) -> int:
    """Bytes of the weights: the tokenizer's files are the same on both sides."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def add_tuned(ours: OurSide, planned: Path, out: Path, peer: str, row: dict[str, Any]) -> None:
    """Add to a peer's row what the planned folder costs once it is tuned, if that is asked for."""
    if ours.workload.options.no_tuning:
        return
    start = time.perf_counter()
    kl = ours.scorer.kl(ours.tuned(planned, out))
    row |= {
        "KL tuned": mean(kl),
        "tuned ÷": mean(kl) / row[f"KL {peer}"],
        "s tuning": time.perf_counter() - start,
    }
    row["by text"]["tuned"] = kl
    shutil.rmtree(out, ignore_errors=True)
