"""Scales, offsets and norms distilled from the original's logits while every code stays as it is.

Trained in torch on the calibration text, watched on text that nothing was fitted to, and kept only
when the divergence of the written artefact falls there, and for no kind of text rises.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import __version__
from kanna._util.atomic import write_json
from kanna._util.disk import explain
from kanna._util.progress import Progress
from kanna.calibration.devices import CPU, is_full, pick_device, serves, within_memory
from kanna.calibration.windows import CalibrationWindows
from kanna.optimization.acceptance import judge
from kanna.optimization.context import Workspace
from kanna.optimization.kl_scorer import F64, HeldOutWindows, Window
from kanna.optimization.tuning.learnable import matrices
from kanna.optimization.tuning.learned_values import RATES
from kanna.optimization.tuning.needs import bytes_needed, disk_needed, lacking
from kanna.optimization.tuning.place import TuningDevice
from kanna.optimization.tuning.recovery import Recovery, RecoveryResult
from kanna.optimization.tuning.student import Student
from kanna.optimization.tuning.subject import TuningSubject
from kanna.optimization.tuning.training import EPOCHS, ScaleTraining
from kanna.plan import load

NAME = "tuned"
PLAN, FILE, STATE, WORK = "tuned.json", "tuning.safetensors", "distill.json", "tuning-work"


def file_of(plan: Path, name: str) -> Path:
    """A file of a tuning in the folder of its plan: tuned-onnx.json of plan-onnx.json."""
    _, dash, suffix = plan.stem.partition("-")
    stem, dot, ending = name.partition(".")
    return plan.with_name(f"{stem}{dash}{suffix}{dot}{ending}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningResult:
    """What a tuning came to.

    Attributes:
        before: Mean KL divergence of the artefact on the text that decided, in nats.
        after: The same of the tuned artefact.
        half: Half width of the 95 % interval of the difference.
        kept: Whether the divergence fell, or with `recovery` the loss, so that the tuned artefact
            stays.
        trained: Divergence in torch by epoch, on the text it learned from.
        watched: The same on the text that decided, first before anything was learned.
        parameters: How many numbers learned.
        seconds: Of learning and scoring.
        device: Where it learned.
        recovery: Losses on text of the domain, where that decided; see `RecoveryResult`.
        worse: Kinds of text that lost, of those that decided.
    """

    before: float
    after: float
    half: float | None
    kept: bool
    trained: list[float]
    watched: list[float]
    parameters: int
    seconds: float
    device: str = CPU
    recovery: dict[str, Any] | None = None
    worse: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def tune(
    workspace: Workspace,
    subject: TuningSubject,
    plan: Path,
    windows: CalibrationWindows,
    held: HeldOutWindows,
    recovery: Recovery | None = None,
) -> TuningResult | None:
    """`distill` on the calibration text.

    None with a note where there is no memory for it or nothing to tune.

    Args:
        workspace: The original.
        subject: The artefact of `plan`.
        plan: A plan file.
        windows: The calibration text.
        held: Text that was not calibrated on.
        recovery: Decides by the loss on text of the domain; None: the divergence does.
    """
    # Read again and again, the calibration text is learned by heart: text that nothing else was
    # fitted to is read, too.
    ids = [*windows.ids[~windows.held], *(ids for _, ids in held.rest[: len(windows.ids)])] or [
        *windows.ids
    ]
    work, length = file_of(plan, WORK), windows.ids.shape[1]
    artefact, tokens = subject.read(subject.artefact), (len(ids) + len(held.trial)) * length
    needs = bytes_needed(artefact, length), disk_needed(artefact, tokens, EPOCHS)
    if short := lacking(*needs, work):
        workspace.context.note(f"{short}: it was left out")
        return None
    try:
        result = distill(workspace, subject, plan, ids, held, recovery=recovery)
    except RuntimeError as error:
        if not is_full(error):
            raise
        shutil.rmtree(work, ignore_errors=True)
        device = pick_device(workspace.context.device)
        workspace.context.note(f"the memory of {device} did not suffice to tune: it was left out")
        return None
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)  # what others need of the disk
        raise explain(error, work) from error
    if result is None:
        workspace.context.note("nothing of this plan can be tuned")
    return result


def distill(
    workspace: Workspace,
    subject: TuningSubject,
    plan: Path,
    ids: Sequence[Sequence[int]],
    held: HeldOutWindows,
    *,
    recovery: Recovery | None = None,
) -> TuningResult | None:
    """Tune the artefact of `plan`; None when it holds no block whose scale can be moved.

    When it helps, the tuned artefact is written and its plan stays beside `plan`. An earlier result
    for the same artefact is used again; an interrupted training goes on with the epoch it was at.

    Args:
        workspace: The original.
        subject: The artefact.
        plan: A plan file.
        ids: Windows to learn from.
        held: Its trial windows decide.
        recovery: Decides by the loss on them; None: the divergence does.
    """
    context, progress = workspace.context, workspace.context.progress
    tuned_plan, file, state = (file_of(plan, name) for name in (PLAN, FILE, STATE))
    key = _key(subject, ids, held, recovery)
    if (earlier := _earlier(plan, key, context.device)) is not None:
        if earlier.kept and not subject.out.exists():
            subject.write(tuned_plan, progress)
        return earlier
    began, place = time.perf_counter(), TuningDevice(context.device, progress)
    work = file_of(plan, WORK)

    def learned() -> _Learned | None:
        training = _training(workspace, subject, ids, held, work, key, place=place)
        return (
            None
            if training is None
            else _learn(training, subject, plan, held.trial, progress, recovery)
        )

    outcome = within_memory(learned, place.lighten)
    context.note(*place.remarks)
    if outcome is None:
        return None
    result = outcome.result(time.perf_counter() - began, place.named)
    if not result.kept:
        for each in (subject.out, file, tuned_plan):
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
    write_json(state, {"key": key, "result": result.to_dict()})
    shutil.rmtree(work, ignore_errors=True)
    return result


@dataclass(frozen=True, slots=True)
class _Learned:
    """What a training came to: losses by epoch, and divergences of windows before and after."""

    windows: Sequence[Window]
    trained: list[float]
    watched: list[float]
    parameters: int
    before: F64
    after: F64
    given_back: RecoveryResult | None

    def result(self, seconds: float, device: str) -> TuningResult:
        """What it came to, and whether it is kept."""
        verdict, given_back = judge(self.windows, self.before, self.after), self.given_back
        return TuningResult(
            before=verdict.mean.before,
            after=verdict.mean.after,
            half=verdict.mean.half,
            kept=verdict.kept if given_back is None else given_back.kept,
            trained=self.trained,
            watched=self.watched,
            parameters=self.parameters,
            seconds=seconds,
            device=device,
            recovery=None if given_back is None else given_back.to_dict(),
            worse=verdict.worse,
        )


def _learn(
    training: ScaleTraining,
    subject: TuningSubject,
    plan: Path,
    windows: Sequence[Window],
    progress: Progress,
    recovery: Recovery | None,
) -> _Learned:
    """Train, write the tuned artefact and its plan, and score it."""
    tuned_plan, file, state = (file_of(plan, name) for name in (PLAN, FILE, STATE))
    trained, watched = training.run(progress)
    state.unlink(missing_ok=True)  # what it says is about to be replaced
    of_plan = load(plan)
    earlier = of_plan.tuned()
    training.save(file, earlier.rows if earlier else {})
    of_plan.model_copy(update={"name": NAME, "tuning": file.name}).save(tuned_plan)
    subject.write(tuned_plan, progress)
    parameters = training.parameters
    given_back: RecoveryResult | None = None
    if recovery is None:
        before, after = subject.score(training, progress)
    else:
        training.release()
        given_back = recovery.judge(subject.artefact, subject.out)
        before, after = given_back.kl_before, given_back.kl_after
    return _Learned(
        windows=windows,
        trained=trained,
        watched=watched,
        parameters=parameters,
        before=before,
        after=after,
        given_back=given_back,
    )


def _key(
    subject: TuningSubject,
    ids: Sequence[Sequence[int]],
    held: HeldOutWindows,
    recovery: Recovery | None,
) -> str:
    """A hash of everything the result depends on."""
    windows = [[int(i) for i in window] for window in ids]
    inputs = [__version__, EPOCHS, RATES, *subject.key(), held.trial, windows]
    inputs += recovery.key() if recovery else []
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _training(
    workspace: Workspace,
    subject: TuningSubject,
    ids: Sequence[Sequence[int]],
    held: HeldOutWindows,
    work: Path,
    key: str,
    *,
    place: TuningDevice,
) -> ScaleTraining | None:
    """The training of what the artefact holds; None when nothing of it can learn."""
    artefact = subject.read(subject.artefact)
    if not matrices(artefact):
        return None
    student = Student(artefact, place.device, work, norms=subject.norms)
    student.logits = place.logits
    watch = [window for _, window in held.trial]
    return ScaleTraining(student, workspace.model, ids, watch, work, f"{key} {place.named}")


def _earlier(plan: Path, key: str, device: str | None) -> TuningResult | None:
    """The result of an earlier run of the same, when all that it left is there."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(file_of(plan, STATE).read_text(encoding="utf-8"))
        result = TuningResult(**saved["result"])
        whole = not result.kept or all(file_of(plan, name).is_file() for name in (FILE, PLAN))
        same = saved["key"] == key and serves(device, result.device)
        return result if same and whole else None
    return None
