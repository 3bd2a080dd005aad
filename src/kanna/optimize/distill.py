"""Distillation: scales and norms tuned against the original's logits while every code stays as it is.

Trained in torch on the calibration text, watched on text that nothing was fitted to, and kept only when the
divergence in the runtime falls there. After LLM-QAT and the scale tuning of EfficientQAT (arXiv:2407.11062), with
factors on the float16 scales that llama.cpp's blocks have, rounded to float16.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import __version__, encodings, families
from kanna.calibrate import texts
from kanna.calibrate.network import torch_modules
from kanna.calibrate.student import Student, Teacher, bytes_needed
from kanna.calibrate.windows import Windows, cut
from kanna.digest import sha256
from kanna.evaluate.stats import half_width
from kanna.hardware.memory import memory as machine
from kanna.model import Model, columns
from kanna.optimize.judge import Judge, Spare
from kanna.optimize.rewrite import rewrite
from kanna.optimize.swaps import SURE
from kanna.plan import load
from kanna.plan.tuning import FIELDS, SCALE
from kanna.progress import Progress
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source, open_source
from kanna.units import format_size

NAME = "tuned"
PLAN, FILE, STATE = "tuned.json", "tuning.safetensors", "distill.json"
RESERVE = 128
"""Bytes of metadata that a tuned file has beside those of the plan it was tuned from."""
EPOCHS, WARM = 3, 8
RATES = (1e-4, 3e-4)
"""Of factors on scales, and of norms."""
_SEED = 20260101


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """before, after: mean KL divergence in the runtime on the text that decided; kept: whether it fell.

    trained: divergence in torch on the text it learned from, by epoch; watched: on the text that decided, first before
    anything was learned; seconds: of learning and judging
    """

    before: float
    after: float
    half: float | None
    kept: bool
    trained: list[float]
    watched: list[float]
    parameters: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def tune(
    source: Source,
    model: Model,
    artefact: Path,
    plan: Path,
    stats: Path,
    out: Path,
    calibration: Sequence[str | Path] | None,
    tokens: int,
    text: Spare,
    *,
    device: str | None,
    threads: int | None,
    progress: Progress,
    notes: list[str],
) -> Distilled | None:
    """`distill` on the calibration text, where there is memory for it; where not, `notes` says so."""
    windows = cut(texts.documents(calibration, model)[0], model, tokens=tokens)
    needed, free = bytes_needed(model, windows.ids.size, windows.ids.shape[1]), machine().available
    if needed > free:
        notes.append(f"tuning scales takes {format_size(needed)}, {format_size(free)} are free: it was left out")
        return None
    return distill(
        source, model, artefact, plan, stats, out, windows, text, device=device, threads=threads, progress=progress
    )


def distill(
    source: Source,
    model: Model,
    artefact: Path,
    plan: Path,
    stats: Path,
    out: Path,
    windows: Windows,
    text: Spare,
    *,
    device: str | None,
    threads: int | None,
    progress: Progress,
) -> Distilled:
    """Tune `artefact`, made by `plan`; when it helps, write the tuned file `out` and its plan beside `plan`.

    windows: the calibration text, whose held-out part is not learned from; text: its trial windows decide.
    An earlier result for the same artefact is used again; an interrupted run goes on with the epoch it was at.
    """
    folder = plan.parent
    made = [__version__, RUNTIME.available().version, EPOCHS, RATES]
    known = [*made, sha256(artefact), text.trial, windows.ids.tolist()]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if before["key"] == key:
            found = Distilled(**before["result"])
            if not found.kept or (folder / FILE).is_file() and (folder / PLAN).is_file():
                return found
    began = time.perf_counter()
    student = Student(families.load_model(open_source(artefact)), _blocks(artefact), device)
    lesson = _Lesson(student, model, windows, text, folder / "distill.safetensors", key, device)
    trained, watched = lesson.run(progress)
    lesson.save(folder / FILE)
    tuned = load(plan).model_copy(update={"name": NAME, "tuning": FILE})
    tuned.save(folder / PLAN)
    del student
    rewrite(source, model, folder / PLAN, stats, out, before=artefact, threads=threads, progress=progress)
    with Judge(source, text.trial, folder, threads) as judge:
        judge.read(progress)
        first, second = judge.kl(artefact, progress), judge.kl(out, progress)
    half = half_width(second - first)
    kept = half is not None and float((second - first).mean()) < -SURE * half
    found = Distilled(
        before=float(first.mean()),
        after=float(second.mean()),
        half=half,
        kept=kept,
        trained=trained,
        watched=watched,
        parameters=lesson.parameters,
        seconds=time.perf_counter() - began,
    )
    if not kept:
        for path in (out, folder / FILE, folder / PLAN):
            path.unlink(missing_ok=True)
    _write(folder / STATE, {"key": key, "result": found.to_dict()})
    lesson.forget()
    return found


def _blocks(artefact: Path) -> dict[str, int]:
    """Factors of a row, one for each block, of the matrices whose scales can be moved."""
    from kanna.formats import gguf

    return {
        name: columns(tensor) // encodings.get(tensor.dtype).block
        for name, tensor in gguf.read(artefact).tensors.items()
        if tensor.dtype in FIELDS and len(tensor.shape) == 2
    }


class _Lesson:
    """The training, epoch by epoch; what it takes to go on lies in `path`."""

    def __init__(
        self,
        student: Student,
        model: Model,
        windows: Windows,
        text: Spare,
        path: Path,
        key: str,
        device: str | None,
    ) -> None:
        torch, _ = torch_modules()
        self.student, self.path, self.key = student, path, key
        self.model, self.device = model, device
        self.ids = windows.ids[~windows.held] if (~windows.held).any() else windows.ids
        self.watch = np.array([ids for _, ids in text.trial], np.int32)
        theta = student.theta
        self.parameters = sum(int(t.numel()) for t in theta.values())
        self.first = {name: torch.zeros_like(t, requires_grad=False) for name, t in theta.items()}
        self.second = {name: torch.zeros_like(t, requires_grad=False) for name, t in theta.items()}
        self.best = {name: t.detach().clone() for name, t in theta.items()}
        self.done, self.trained, self.watched = 0, list[float](), list[float]()
        self._load()

    def run(self, bar: Progress) -> tuple[list[float], list[float]]:
        """Train; afterwards the student is as it was when it did best on the watched text."""
        torch, _ = torch_modules()
        if self.done < EPOCHS:
            bar.start("teacher", None, "windows")
            teacher = Teacher(self.model, np.concatenate([self.ids, self.watch]), self.device)
            steps = EPOCHS * len(self.ids)
            bar.start("distill", steps + (EPOCHS + 1) * len(self.watch), "windows")
            if not self.watched:
                self.watched.append(self._look(teacher, bar))
            else:
                bar.advance(self.done * (len(self.ids) + len(self.watch)) + len(self.watch))
            for epoch in range(self.done, EPOCHS):
                order = np.random.default_rng([_SEED, epoch]).permutation(len(self.ids))
                total = 0.0
                for number, at in enumerate(order):
                    total += self.student.divergence(self.ids[at], teacher.states[at], teacher.head, learn=True)
                    self._step(epoch * len(self.ids) + number, steps)
                    bar.advance(1)
                self.trained.append(total / len(order))
                self.watched.append(self._look(teacher, bar))
                if self.watched[-1] <= min(self.watched):
                    self.best = {name: t.detach().clone() for name, t in self.student.theta.items()}
                self.done = epoch + 1
                self._save()
            bar.finish()
        with torch.no_grad():
            for name, best in self.best.items():
                self.student.theta[name].copy_(best)
        return self.trained, self.watched

    def _look(self, teacher: Teacher, bar: Progress) -> float:
        """Mean divergence on the watched text, at the positions the runtime is judged on."""
        found: list[float] = []
        for ids, state in zip(self.watch, teacher.states[len(self.ids) :], strict=True):
            found.append(self.student.divergence(ids, state, teacher.head, learn=False, first=len(ids) // 2))
            bar.advance(1)
        return float(np.mean(found))

    def _step(self, number: int, steps: int) -> None:
        """Adam (arXiv:1412.6980), warmed up, then along a cosine to zero."""
        torch, _ = torch_modules()
        speed = min(1.0, (number + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * number / steps))
        one, two = 0.9, 0.95
        with torch.no_grad():
            for name, theta in self.student.theta.items():
                if theta.grad is None:
                    continue
                rate = speed * RATES[name in self.student.norms]
                first, second = self.first[name], self.second[name]
                first.lerp_(theta.grad, 1 - one)
                second.lerp_(theta.grad.square(), 1 - two)
                size = (second / (1 - two ** (number + 1))).sqrt_().add_(1e-12)
                theta -= rate / (1 - one ** (number + 1)) * first / size
                theta.grad = None

    def save(self, path: Path) -> None:
        """What a plan reads: scales as float16, norms as float32."""
        from safetensors.numpy import save_file

        found: dict[str, Any] = {name + SCALE: v.astype(np.float16) for name, v in self.student.scales()}
        found |= {name: v.astype(np.float32) for name, v in self.student.vectors()}
        partial = path.with_name(path.name + ".partial")
        save_file(found, partial)
        partial.replace(path)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        from safetensors.torch import save_file

        parts = {"theta": self.student.theta, "first": self.first, "second": self.second, "best": self.best}
        arrays = {f"{part}:{name}": t.detach() for part, of in parts.items() for name, t in of.items()}
        told = {"key": self.key, "trained": json.dumps(self.trained), "watched": json.dumps(self.watched)}
        partial = self.path.with_name(self.path.name + ".partial")
        save_file(arrays, partial, told)
        partial.replace(self.path)

    def _load(self) -> None:
        torch, _ = torch_modules()
        from safetensors import safe_open

        if not self.path.is_file():
            return
        parts = {"theta": self.student.theta, "first": self.first, "second": self.second, "best": self.best}
        try:
            with safe_open(str(self.path), framework="pt", device=self.student.device) as file:
                told = file.metadata() or {}
                if told.get("key") != self.key:
                    return
                trained, watched = json.loads(told["trained"]), json.loads(told["watched"])
                there = {part: {name: file.get_tensor(f"{part}:{name}") for name in of} for part, of in parts.items()}
        except Exception:  # damaged, and safetensors raises several types of its own: training starts again
            return
        with torch.no_grad():
            for part, of in parts.items():
                for name, t in of.items():
                    t.copy_(there[part][name])
        self.trained, self.watched, self.done = trained, watched, len(trained)


def _write(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(path)
