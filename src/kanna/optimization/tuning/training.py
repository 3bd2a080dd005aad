"""Scales, offsets and norms of a student trained on the logits of a teacher, epoch by epoch.

After LLM-QAT and the scale tuning of EfficientQAT (arXiv:2407.11062). The state of the training
lies in a file, so that an interruption loses one epoch at most.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.calibration.devices import torch_modules
from kanna.calibration.student import Student, Teacher
from kanna.formats import safetensors
from kanna.model import U8, Model
from kanna.optimization.kl_scorer import F64
from kanna.plan.tuning import OFFSET, ROWS, SCALE

EPOCHS, WARM = 2, 8
RATES = {"scale": 5e-4, "offset": 2e-3, "norm": 3e-4}
"""A step of factors on scales, of offsets in steps of their block, and of norms."""
_SEED = 20260101
_PARTS, _CURVES = ("theta", "first", "second", "best"), ("trained", "watched", "start")


class ScaleTraining:
    """The training of a student, on windows that it learns from and windows that it is watched on.

    Attributes:
        path: The file that an interrupted training goes on from.
        key: What that file must say to be used.
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
        path: Path,
        key: str,
    ) -> None:
        torch, _ = torch_modules()
        self.student, self.path, self.key, self.model = student, path, key, model
        self.ids, self.watch = np.array(ids, np.int32), np.array(watch, np.int32)
        self.theta = student.theta | {name + OFFSET: delta for name, delta in student.delta.items()}
        self.parameters = sum(int(t.numel()) for t in self.theta.values())
        self.first = {
            name: torch.zeros_like(t, requires_grad=False) for name, t in self.theta.items()
        }
        self.second = {
            name: torch.zeros_like(t, requires_grad=False) for name, t in self.theta.items()
        }
        self.best = {name: t.detach().clone() for name, t in self.theta.items()}
        self.epochs_done = 0
        self.trained, self.watched, self.start = list[float](), list[float](), list[float]()
        self._teacher: Teacher | None = None
        self._load()

    def teacher(self, progress: Progress) -> Teacher:
        """The hidden states of the original on both texts; it runs once."""
        if self._teacher is None:
            progress.start("teacher", None, "windows")
            self._teacher = Teacher(
                self.model, np.concatenate([self.ids, self.watch]), self.student.device
            )
        return self._teacher

    def run(self, progress: Progress) -> tuple[list[float], list[float]]:
        """Train; afterwards the student is as it was when it did best on the watched text.

        Returns:
            `trained` and `watched`.
        """
        torch, _ = torch_modules()
        if self.epochs_done < EPOCHS:
            teacher = self.teacher(progress)
            steps = EPOCHS * len(self.ids)
            progress.start("distill", steps + (EPOCHS + 1) * len(self.watch), "windows")
            if not self.watched:
                self.start = self.evaluate(self.student, progress).tolist()
                self.watched.append(float(np.mean(self.start)))
            else:
                progress.advance(
                    self.epochs_done * (len(self.ids) + len(self.watch)) + len(self.watch)
                )
            for epoch in range(self.epochs_done, EPOCHS):
                order = np.random.default_rng([_SEED, epoch]).permutation(len(self.ids))
                total = 0.0
                for number, at in enumerate(order):
                    total += self.student.divergence(
                        self.ids[at], teacher.states[at], teacher.head, learn=True
                    )
                    self._step(epoch * len(self.ids) + number, steps)
                    progress.advance(1)
                self.trained.append(total / len(order))
                self.watched.append(float(self.evaluate(self.student, progress).mean()))
                if self.watched[-1] <= min(self.watched):
                    self.best = {name: t.detach().clone() for name, t in self.theta.items()}
                self.epochs_done = epoch + 1
                self._save()
            progress.finish()
        with torch.no_grad():
            for name, best in self.best.items():
                self.theta[name].copy_(best)
        return self.trained, self.watched

    def release(self) -> None:
        """Free the student and all that belongs to it, so that another fits into memory."""
        del self.student, self.theta, self.first, self.second, self.best
        gc.collect()  # forward passes hold modules that hold them

    def evaluate(self, student: Student, progress: Progress) -> F64:
        """Mean divergence of each watched window, f64 [windows], where runtimes are scored."""
        teacher = self.teacher(progress)
        scores: list[float] = []
        for ids, state in zip(self.watch, teacher.states[len(self.ids) :], strict=True):
            scores.append(
                student.divergence(ids, state, teacher.head, learn=False, first=len(ids) // 2)
            )
            progress.advance(1)
        return np.array(scores)

    def _step(self, number: int, steps: int) -> None:
        """Adam (arXiv:1412.6980), warmed up, then along a cosine to zero."""
        torch, _ = torch_modules()
        speed = min(1.0, (number + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * number / steps))
        beta1, beta2 = 0.9, 0.95
        with torch.no_grad():
            for name, theta in self.theta.items():
                if theta.grad is None:
                    continue
                rate = speed * RATES[self._kind(name)]
                first, second = self.first[name], self.second[name]
                first.lerp_(theta.grad, 1 - beta1)
                second.lerp_(theta.grad.square(), 1 - beta2)
                size = (second / (1 - beta2 ** (number + 1))).sqrt_().add_(1e-12)
                theta -= rate / (1 - beta1 ** (number + 1)) * first / size
                theta.grad = None

    def _kind(self, name: str) -> str:
        if name.endswith(OFFSET):
            return "offset"
        return "norm" if name in self.student.gains else "scale"

    def save(self, path: Path, rows: Mapping[str, U8]) -> None:
        """Write the file that a plan reads: scales and offsets as float16, norms as float32.

        Args:
            path: The file.
            rows: Encoded rows that the tuned artefact has from an earlier tuning, by tensor.
        """
        arrays: dict[str, Any] = {name + ROWS: data for name, data in rows.items()}
        arrays |= {name + SCALE: v.astype(np.float16) for name, v in self.student.scales()}
        arrays |= {name + OFFSET: v.astype(np.float16) for name, v in self.student.offsets()}
        arrays |= {name: v.astype(np.float32) for name, v in self.student.vectors()}
        safetensors.save(path, arrays)

    def _state(self) -> dict[str, dict[str, Any]]:
        return dict(zip(_PARTS, (self.theta, self.first, self.second, self.best), strict=True))

    def _save(self) -> None:
        parts = self._state().items()
        arrays = {
            f"{part}:{name}": t.detach().cpu().numpy()
            for part, of in parts
            for name, t in of.items()
        }
        metadata = {"key": self.key} | {name: json.dumps(getattr(self, name)) for name in _CURVES}
        safetensors.save(self.path, arrays, metadata)

    def _load(self) -> None:
        torch, _ = torch_modules()
        from safetensors import safe_open

        if not self.path.is_file():
            return
        parts = self._state()
        # Damaged, and safetensors raises several types of its own: training starts again.
        with (
            suppress(Exception),
            safe_open(str(self.path), framework="pt", device=self.student.device) as file,
        ):
            metadata = file.metadata() or {}
            if metadata.get("key") != self.key:
                return
            curves = {name: json.loads(metadata[name]) for name in _CURVES}
            stored = {
                part: {name: file.get_tensor(f"{part}:{name}") for name in of}
                for part, of in parts.items()
            }
            with torch.no_grad():
                for part, of in parts.items():
                    for name, t in of.items():
                        t.copy_(stored[part][name])
            for name, curve in curves.items():
                setattr(self, name, curve)
            self.epochs_done = len(self.trained)
