"""Folders that can be tuned.

Judged in torch by the values they hold, whatever runtime they are for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna.calibration.student import Student
from kanna.model import Model
from kanna.optimization.kl_scorer import F64
from kanna.optimization.tuning.distill import Distilled
from kanna.optimization.tuning.lesson import Lesson

Tune = Callable[["Folder", Path], "Distilled | None"]
"""What tunes a folder that a plan file made."""


@dataclass(slots=True, kw_only=True)
class Folder:
    """A subject of kanna.optimization.tuning.distill.

    Attributes:
        reads: An artefact as a model.
        writes: `out`, by a plan file.
    """

    artefact: Path
    out: Path
    norms: bool
    reads: Callable[[Path], Model]
    writes: Callable[[Path], Any]

    def key(self) -> list[Any]:
        return [[p.name, sha256(p)] for p in sorted(self.artefact.iterdir()) if p.is_file()]

    def read(self, path: Path) -> Model:
        return self.reads(path)

    def write(self, plan: Path, progress: Progress) -> None:
        self.writes(plan)

    def judge(self, lesson: Lesson, progress: Progress) -> tuple[F64, F64]:
        device = lesson.student.device
        lesson.teacher(progress)
        lesson.release()
        progress.start("score", len(lesson.watch), "windows")
        after = lesson.look(Student(self.read(self.out), {}, device, norms=False), progress)
        progress.finish()
        return np.array(lesson.start), after
