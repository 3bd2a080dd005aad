"""Distillation: scales, offsets and norms tuned against the original's logits while every code stays as it is.

Trained in torch on the calibration text, watched on text that nothing was fitted to, and kept only when the divergence
of the written artefact falls there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from kanna import __version__, encodings, families
from kanna._util.atomic import write_json
from kanna._util.digest import sha256
from kanna._util.progress import Progress
from kanna._util.units import format_size
from kanna.calibration import texts
from kanna.calibration.student import Student, bytes_needed
from kanna.calibration.windows import cut
from kanna.evaluation.stats import half_width
from kanna.hardware.memory import memory as machine
from kanna.model import F32, Model, Tensor, columns, num_rows
from kanna.optimization.kl_scorer import F64, Judge, Spare
from kanna.optimization.local_search import SURE
from kanna.optimization.rewrite import rewrite
from kanna.optimization.tuning.lesson import EPOCHS, RATES, Lesson
from kanna.plan import load
from kanna.plan.tuning import factors, shifts, steps
from kanna.runtimes.llamacpp import RUNTIME
from kanna.sources import Source, open_source

NAME = "tuned"
PLAN, FILE, STATE = "tuned.json", "tuning.safetensors", "distill.json"
RESERVE = 128
"""Bytes of metadata that a tuned file has beside those of the plan it was tuned from."""


def beside(plan: Path, name: str) -> Path:
    """A file of a tuning in the folder of its plan, and set apart as that is.

    Tuned-onnx.json beside plan-onnx.json.
    """
    _, dash, which = plan.stem.partition("-")
    stem, dot, ending = name.partition(".")
    return plan.with_name(f"{stem}{dash}{which}{dot}{ending}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """before, after: mean KL divergence of what was written on the text that decided.

    decided, first before anything was learned; seconds: of learning and judging

    Attributes:
        kept: Whether it fell.
        trained: Divergence in torch on the text it learned from, by epoch.
        watched: On the text that.
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


class Subject(Protocol):
    """An artefact that can be tuned, and the name of what comes of it.

    Attributes:
        norms: Whether its norms can be moved, too.
    """

    artefact: Path
    out: Path
    norms: bool

    def key(self) -> list[Any]:
        """What an earlier result must have been made of to be used again."""
        ...

    def read(self, path: Path) -> Model:
        """An artefact as a model: tensors that decode to what it holds."""
        ...

    def write(self, plan: Path, progress: Progress) -> None:
        """Write `out` by a plan that differs from that of `artefact` in its tuning alone."""
        ...

    def judge(self, lesson: Lesson, progress: Progress) -> tuple[F64, F64]:
        """Divergence of `artefact` and of `out` on each of the windows that decide."""
        ...


@dataclass(slots=True, kw_only=True)
class Gguf:
    """A GGUF, judged in llama.cpp."""

    source: Source
    model: Model
    artefact: Path
    stats: Path
    out: Path
    trial: Sequence[tuple[str, list[int]]]
    threads: int | None
    norms: bool = True

    def key(self) -> list[Any]:
        return [RUNTIME.available().version, sha256(self.artefact)]

    def read(self, path: Path) -> Model:
        return families.load_model(open_source(path))

    def write(self, plan: Path, progress: Progress) -> None:
        rewrite(
            self.source,
            self.model,
            plan,
            self.stats,
            self.out,
            before=self.artefact,
            threads=self.threads,
            progress=progress,
        )

    def judge(self, lesson: Lesson, progress: Progress) -> tuple[F64, F64]:
        with Judge(self.source, self.trial, self.out.parent, self.threads) as judge:
            judge.read(progress)
            return judge.kl(self.artefact, progress), judge.kl(self.out, progress)


def tune(
    subject: Subject,
    model: Model,
    plan: Path,
    calibration: Sequence[str | Path] | None,
    tokens: int,
    text: Spare,
    *,
    device: str | None,
    progress: Progress,
    notes: list[str],
) -> Distilled | None:
    """`distill` on the calibration text, where there is memory for it.

    Where not, `notes` says so.
    """
    windows = cut(texts.documents(calibration, model)[0], model, tokens=tokens)
    # Read again and again, the calibration text is learned by heart: what nothing else was made of
    # is read, too.
    ids = [*windows.ids[~windows.held], *(ids for _, ids in text.rest[: len(windows.ids)])] or [
        *windows.ids
    ]
    count, length = len(ids) + len(text.trial), windows.ids.shape[1]
    needed, free = bytes_needed(model, count * length, length), machine().available
    if needed > free:
        notes.append(
            f"tuning scales takes {format_size(needed)}, {format_size(free)} are free: it was left out"
        )
        return None
    found = distill(subject, model, plan, ids, text, device=device, progress=progress)
    if found is None:
        notes.append("nothing of this plan can be tuned")
    return found


def distill(
    subject: Subject,
    model: Model,
    plan: Path,
    ids: Sequence[Sequence[int]],
    text: Spare,
    *,
    device: str | None,
    progress: Progress,
) -> Distilled | None:
    """Tune an artefact made by `plan`.

    When it helps, it is written and its plan stays beside `plan`. None: it holds no block that
    could be moved.

    result for the same artefact is used again; an interrupted run goes on with the epoch it was at.

    Args:
        model: The original.
        ids: The windows to learn from.
        text: Its trial windows decide. An earlier.
    """
    tuned, file, state = (beside(plan, name) for name in (PLAN, FILE, STATE))
    known = [
        __version__,
        EPOCHS,
        RATES,
        *subject.key(),
        text.trial,
        [[int(i) for i in window] for window in ids],
    ]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    if (found := _earlier(plan, key)) is not None:
        if found.kept and not subject.out.exists():
            subject.write(tuned, progress)
        return found
    began = time.perf_counter()
    taught = subject.read(subject.artefact)
    free = blocks(taught)
    if not free:
        return None
    student = Student(taught, free, device, sizes(taught), subject.norms)
    watch = [window for _, window in text.trial]
    lesson = Lesson(student, model, ids, watch, state.with_suffix(file.suffix), key)
    parameters = lesson.parameters
    del student
    trained, watched = lesson.run(progress)
    state.unlink(missing_ok=True)  # what it tells of is about to be replaced
    lesson.save(file)
    load(plan).model_copy(update={"name": NAME, "tuning": file.name}).save(tuned)
    subject.write(tuned, progress)
    first, second = subject.judge(lesson, progress)
    half = half_width(second - first)
    kept = half is not None and float((second - first).mean()) < -SURE * half
    found = Distilled(
        before=float(first.mean()),
        after=float(second.mean()),
        half=half,
        kept=kept,
        trained=trained,
        watched=watched,
        parameters=parameters,
        seconds=time.perf_counter() - began,
    )
    if not kept:
        for path in (subject.out, file, tuned):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_json(state, {"key": key, "result": found.to_dict()})
    lesson.forget()
    return found


def _earlier(plan: Path, key: str) -> Distilled | None:
    """What an earlier run of the same came to, when all that it left is there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(beside(plan, STATE).read_text(encoding="utf-8"))
        found = Distilled(**before["result"])
        whole = not found.kept or all(beside(plan, name).is_file() for name in (FILE, PLAN))
        return found if before["key"] == key and whole else None
    return None


def blocks(artefact: Model) -> dict[str, int]:
    """Factors of a row, one for each block, of the matrices whose scales can be moved."""
    return {
        name: columns(t) // encodings.get(t.dtype).block
        for name, t in artefact.tensors.items()
        if _free(t)
    }


def sizes(artefact: Model) -> Mapping[str, F32]:
    """Steps of the blocks of the matrices that can be moved as a whole, f32 [rows, blocks]."""
    found: dict[str, F32] = {}
    for name, tensor in artefact.tensors.items():
        encoding = encodings.get(tensor.dtype)
        if (
            _free(tensor)
            and shifts(encoding)
            and (data := tensor.raw(0, num_rows(tensor))) is not None
        ):
            found[name] = steps(encoding, data, columns(tensor))
    return found


def _free(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and bool(factors(encodings.get(tensor.dtype)))
