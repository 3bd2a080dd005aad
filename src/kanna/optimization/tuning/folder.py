"""Folders whose scales can be tuned, scored in torch by the values they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna.model import Model
from kanna.optimization.kl_scorer import F64
from kanna.optimization.tuning.student import Student
from kanna.optimization.tuning.training import ScaleTraining


@dataclass(slots=True, kw_only=True)
class FolderSubject:
    """An artefact of several files, see TuningSubject.

    Attributes:
        reader: Reads an artefact as a model.
        writer: Writes `out` by a plan file.
    """

    artefact: Path
    out: Path
    norms: bool
    reader: Callable[[Path], Model]
    writer: Callable[[Path], object]

    def key(self) -> list[Any]:
        """Every file of the folder with its hash."""
        return [[p.name, sha256(p)] for p in sorted(self.artefact.iterdir()) if p.is_file()]

    def read(self, path: Path) -> Model:
        """An artefact as a model."""
        return self.reader(path)

    def write(self, plan: Path, progress: Progress) -> None:
        """Write `out`."""
        self.writer(plan)

    def score(self, training: ScaleTraining, progress: Progress) -> tuple[F64, F64]:
        """Divergence before and after on each watched window, in torch."""
        device, logits = training.student.device, training.student.logits
        training.teacher(progress)
        training.release()
        progress.start("score", len(training.watch), "windows")
        tuned = Student(self.read(self.out), device, training.folder, learns=False)
        tuned.logits = logits
        after = training.evaluate(tuned, progress)
        progress.finish()
        return np.array(training.start), after
