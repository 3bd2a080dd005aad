"""Scales, offsets and norms of a student trained on the logits of a teacher, epoch by epoch.

After LLM-QAT and the scale tuning of EfficientQAT (arXiv:2407.11062). The state of the training
lies in a folder, so that an interruption loses one epoch at most.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.formats import safetensors
from kanna.model import U8, Model
from kanna.optimization.kl_scorer import F64
from kanna.optimization.tuning.learned_values import Pace
from kanna.optimization.tuning.student import Student
from kanna.optimization.tuning.teacher import Teacher
from kanna.plan.tuning import OFFSET, ROWS, SCALE

EPOCHS = 2
_SEED = 20260101
_CURVES = ("trained", "watched", "start")
_STATE = "state.json"


class ScaleTraining:
    """The training of a student, on windows that it learns from and windows that it is watched on.

    Attributes:
        folder: Where an interrupted training finds what was done.
        key: What must be noted there to be used.
        parameters: How many numbers learn.
        start: Divergence of each watched window before anything was learned.
        trained: Mean divergence by epoch on the windows that it learns from.
        watched: The same on the watched windows, first before anything was learned.
    """

    def __init__(
        self,
        student: Student,
        model: Model,
        ids: Sequence[Sequence[int]],
        watch: Sequence[Sequence[int]],
        folder: Path,
        key: str,
    ) -> None:
        """Prepare it.

        Args:
            student: The artefact.
            model: The original.
            ids: Windows to learn from.
            watch: Windows that it is watched on, of the same length.
            folder: That of the student's values.
            key: Hash of what the training depends on.
        """
        self.student, self.folder, self.key, self.model = student, folder, key, model
        self.ids, self.watch = np.array(ids, np.int32), np.array(watch, np.int32)
        self.parameters = student.values.count
        self.trained, self.watched, self.start = list[float](), list[float](), list[float]()
        self._teacher: Teacher | None = None
        self._load()

    def teacher(self, progress: Progress) -> Teacher:
        """The hidden states of the original on both texts; it runs once."""
        if self._teacher is None:
            progress.start("teacher", None, "windows")
            every = np.concatenate([self.ids, self.watch])
            self._teacher = Teacher(self.model, every, self.student.device, self.folder)
        return self._teacher

    def run(self, progress: Progress) -> tuple[list[float], list[float]]:
        """Train; afterwards the student is as it was when it did best on the watched text.

        Returns:
            `trained` and `watched`.
        """
        done = len(self.trained)
        if done < EPOCHS:
            self.teacher(progress)
            steps = EPOCHS * len(self.ids)
            progress.start("distill", steps + (EPOCHS + 1) * len(self.watch), "windows")
            if not self.watched:
                self.start = self.evaluate(self.student, progress).tolist()
                self.watched.append(float(np.mean(self.start)))
            else:
                progress.advance(done * (len(self.ids) + len(self.watch)) + len(self.watch))
            for epoch in range(done, EPOCHS):
                self._epoch(epoch, progress)
            progress.finish()
        best = min(range(EPOCHS + 1), key=lambda epoch: (self.watched[epoch], -epoch))
        self.student.values.take(best)
        return self.trained, self.watched

    def _epoch(self, epoch: int, progress: Progress) -> None:
        """Read every window once, and save what was learned."""
        teacher, values, steps = self.teacher(progress), self.student.values, EPOCHS * len(self.ids)
        values.begin(epoch)
        order, total = np.random.default_rng([_SEED, epoch]).permutation(len(self.ids)), 0.0
        for number, at in enumerate(order, epoch * len(self.ids)):
            pace = Pace(number, steps)
            total += self.student.learn(self.ids[at], teacher.states[at], teacher.head, pace)
            progress.advance(1)
        self.trained.append(total / len(order))
        self.watched.append(float(self.evaluate(self.student, progress).mean()))
        values.end(epoch + 1)
        self._save()

    def release(self) -> None:
        """Free the student and all that belongs to it, so that another fits into memory."""
        del self.student
        gc.collect()  # a student and its network refer to each other

    def evaluate(self, student: Student, progress: Progress) -> F64:
        """Mean divergence of each watched window, f64 [windows], where runtimes are scored."""
        teacher, scores = self.teacher(progress), list[float]()
        every = zip(student.hidden(self.watch), teacher.states[len(self.ids) :], strict=True)
        for hidden, state in every:
            first = len(hidden) // 2
            scores.append(student.divergence(hidden, state, teacher.head, first=first))
            progress.advance(1)
        return np.array(scores)

    def save(self, path: Path, rows: Mapping[str, U8]) -> None:
        """Write the file that a plan reads: scales and offsets as float16, norms as float32.

        Args:
            path: The file.
            rows: Encoded rows that the tuned artefact has from an earlier tuning, by tensor.
        """
        values = self.student.values
        arrays: dict[str, Any] = {name + ROWS: data for name, data in rows.items()}
        arrays |= {name + SCALE: v.astype(np.float16) for name, v in values.scales()}
        arrays |= {name + OFFSET: v.astype(np.float16) for name, v in values.offsets()}
        arrays |= {name: v.astype(np.float32) for name, v in values.vectors()}
        safetensors.save(path, arrays)

    def _save(self) -> None:
        curves = {name: getattr(self, name) for name in _CURVES}
        write_json(self.folder / _STATE, {"key": self.key, **curves})

    def _load(self) -> None:
        # Damaged, and training starts again.
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            saved = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
            curves = {name: [float(one) for one in saved[name]] for name in _CURVES}
            whole = self.student.values.has(len(curves["trained"]))
            if saved["key"] == self.key and whole:
                for name, curve in curves.items():
                    setattr(self, name, curve)
