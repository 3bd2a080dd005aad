"""Bytes that a guard spends: larger plans of the same curve, until the tasks hold."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanna import encodings
from kanna._util import own_files
from kanna._util.atomic import write_json
from kanna._util.units import format_size
from kanna.calibration import statistics
from kanna.comparison.rows import Row
from kanna.optimization import proof
from kanna.optimization.adapters.base import ArtefactSpec
from kanna.optimization.guard import CHECK, Guard
from kanna.optimization.job import Allocation, CalibratedSource, Job, Proof, Written
from kanna.optimization.search import PlannedArtefact, search
from kanna.plan import load
from kanna.plan.allocate import Choice, prune
from kanna.tasks.pairing import TaskScore, from_json

NAME = "guarded"
"""Of the file that a guard spent bytes on."""
PLAN, STATE = "guarded.json", "guard.json"
MOST_BITS = 8.5
"""Of a matrix: those of 8 bits with their scales; beyond them no task is known to gain."""
STEP = 0.02
"""Share of the bytes between two sizes below which nobody wants to know more: answers to a few
dozen questions do not tell them apart."""


@dataclass(slots=True, kw_only=True)
class GuardStep:
    """One file that was written for the guard, and asked.

    Attributes:
        budget: Bytes it was planned for.
        file_bytes: What it has.
        predicted: Nats that its plan should cost.
        scores: Of the tasks.
        held: Whether they hold.
    """

    budget: int
    file_bytes: int
    predicted: float
    scores: Sequence[TaskScore]
    held: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class GuardSpending:
    """What a guard came to.

    Attributes:
        tolerances: What may be lost of each task.
        held: Whether the file to use holds; None: a task says nothing of it.
        asked_bytes: The budget.
        most_bytes: The largest file that was allowed, and why no larger one: `limit`.
        spent_bytes: Beyond the budget.
        steps: Files that were tried, in that order.
        why: A sentence.
        todo: What the user can do where it does not hold.
    """

    tolerances: Mapping[str, float]
    held: bool | None
    asked_bytes: int
    most_bytes: int
    limit: str
    spent_bytes: int = 0
    steps: list[GuardStep] = field(default_factory=list[GuardStep])
    why: str = ""
    todo: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sized:
    """Bytes a file may have, and in words why no more."""

    nbytes: int
    why: str


def settle(
    job: Job,
    guard: Guard,
    calibration: CalibratedSource,
    allocation: Allocation,
    written: Written,
    proved: Proof,
) -> tuple[Proof, GuardSpending]:
    """Spend bytes until the guard holds, where no file within the budget does.

    Args:
        job: The optimization.
        guard: Its tasks.
        calibration: The calibrated source.
        allocation: The plan, and what it was chosen from.
        written: The files within the budget.
        proved: What was found of them.

    Returns:
        The proof, with a file more where one was found that holds; and what was spent.
    """
    most = _most(job, calibration, allocation)
    asked = allocation.budget.nbytes
    spending = GuardSpending(
        tolerances=guard.tolerances,
        held=True,
        asked_bytes=asked,
        most_bytes=most.nbytes,
        limit=most.why,
        why="a file within the budget holds",
    )
    failed = [check["name"] for check in proved.best.checks if check["ok"] is False]
    if proved.best.gate != "failed":
        if any(guard.check(score).ok is None for score in from_json(proved.best.tasks)):
            spending.held, spending.why = None, "the original does not solve what it was asked"
        return proved, spending
    spending.held = False
    others = [name for name in failed if not name.startswith(CHECK)]
    if others:
        spending.why = f"other checks failed, which bytes do not mend: {', '.join(others)}"
        spending.todo = "see the report for what they found"
        return proved, spending
    sizes = _SizeBisection(job, guard, calibration, allocation, written, spending)
    if not sizes.grows():
        spending.why = f"no larger file is allowed: {most.why}"
        spending.todo = _todo(job)
        return proved, spending
    chosen = sizes.run()
    if chosen is None:
        job.context.on_message(spending.why)
        return proved, spending
    row = sizes.take(chosen)
    proved = proof.prove_also(job, proved, row, chosen.scores, chosen.file_bytes)
    spending.held = proved.best.name == NAME and row.gate != "failed"
    if not spending.held:
        spending.why = f"{row.name} holds the tasks, and failed another check"
        spending.todo = "see the report for what it found"
    job.context.note(spending.why)
    job.context.on_message(spending.why)
    return proved, spending


def _most(job: Job, calibration: CalibratedSource, allocation: Allocation) -> _Sized:
    """The largest file that the guard may make."""
    if job.memory is not None:
        return _Sized(nbytes=allocation.budget.nbytes, why="--memory leaves no more beside it")
    if (limit := job.request.size_max) is not None:
        return _Sized(nbytes=limit, why=f"--size-max {format_size(limit)}")
    nbytes = allocation.planned.fixed + _eight_bits(allocation.choices)
    return _Sized(nbytes=nbytes, why="8 bits for every matrix")


def _eight_bits(choices: Sequence[Choice]) -> int:
    """Bytes of the matrices where each has the best of its encodings of at most MOST_BITS."""
    total = 0
    for choice in choices:
        narrow = [o for o in choice.options if encodings.get(o.encoding).bits <= MOST_BITS]
        total += prune(narrow or choice.options)[-1].nbytes
    return total


def _todo(job: Job) -> str:
    """What a user can do whose guard does not hold."""
    more = "raise --memory or lower --context" if job.memory is not None else "raise --size-max"
    if job.memory is None and job.request.size_max is None:
        more = "look at the flips in the report"
    return f"{more}, or give the task a tolerance, as in maths:0.05"


def most_files(low: int, high: int) -> int:
    """Files that are written and asked at most: the largest, then halves of the bytes between.

    Args:
        low: Bytes of the largest file that is known not to hold.
        high: Bytes of the largest that is allowed.
    """
    return 1 + math.ceil(math.log2(max(1.0, (high - low) / (STEP * low))))


class _SizeBisection:
    """Bisection over the bytes of files; its verdicts are kept, so that it goes on when it ends."""

    def __init__(
        self,
        job: Job,
        guard: Guard,
        calibration: CalibratedSource,
        allocation: Allocation,
        written: Written,
        spending: GuardSpending,
    ) -> None:
        self._job, self._guard, self._spending = job, guard, spending
        self._adapter, self._allocation = calibration.adapter, allocation
        self._before = written.specs[0].path
        self._plan, self._state = self._adapter.file(PLAN), self._adapter.file(STATE)
        self._artefact = self._adapter.artefact(NAME)
        self._key = hashlib.sha256(
            json.dumps(
                [
                    [asdict(choice) for choice in allocation.choices],
                    statistics.read(calibration.statistics).sha256,
                    guard.tolerances,
                    [repr(one.examples) for one in guard.chosen],
                    self._adapter.runtime_version,
                ]
            ).encode()
        ).hexdigest()
        self._known = self._read()
        self._kept = int(self._known.get("kept", 0))

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(self._state.read_text(encoding="utf-8"))
            if saved["key"] == self._key:
                return saved
        return {"key": self._key, "steps": []}

    def _save(self) -> None:
        steps = {step["budget"]: step for step in self._known["steps"]}
        steps |= {step.budget: step.to_dict() for step in self._spending.steps}
        self._known |= {"steps": [*steps.values()], "kept": self._kept}
        write_json(self._state, self._known)

    def grows(self) -> bool:
        """Whether a larger plan is allowed at all."""
        planned = self._allocation.planned.file_bytes
        most = self._spending.most_bytes
        return most > planned and self._planned(most).file_bytes > planned

    def run(self) -> GuardStep | None:
        """The smallest file that holds; None where the largest does not."""
        spending, progress = self._spending, self._job.context.progress
        low, high = max(spending.asked_bytes, self._allocation.planned.file_bytes), None
        best: GuardStep | None = None
        budget = spending.most_bytes
        files = most_files(low, budget)
        while True:
            self._job.context.check_cancelled()
            progress.start("guard", files, "files")
            progress.advance(len(spending.steps), format_size(budget))
            step = self._step(budget)
            spending.steps.append(step)
            self._save()
            verdict = "holds" if step.held else "does not hold"
            self._job.context.on_message(f"guard: {format_size(step.file_bytes)} {verdict}")
            if step.held:
                best, high = step, step.file_bytes
            else:
                low = budget
            if high is None or high - low <= STEP * high:
                break
            budget = (low + high) // 2
        progress.finish()
        self._explain(best)
        return best

    def _explain(self, best: GuardStep | None) -> None:
        spending = self._spending
        files = f"{len(spending.steps)} file{'s' * (len(spending.steps) > 1)} tried"
        if best is None:
            last = spending.steps[-1]
            words = "; ".join(f"{s.name}: {s.words()}" for s in last.scores)
            spending.why = (
                f"the guard cannot be held: {format_size(last.file_bytes)}, the most that is "
                f"allowed ({spending.limit}), lose too: {words}"
            )
            spending.todo = _todo(self._job)
            return
        spending.spent_bytes = max(0, best.file_bytes - spending.asked_bytes)
        spending.why = (
            f"the guard took {format_size(spending.spent_bytes)} more than "
            f"{format_size(spending.asked_bytes)}: no file within the budget holds the tasks, "
            f"one of {format_size(best.file_bytes)} does ({files})"
        )

    def _step(self, budget: int) -> GuardStep:
        """Plan, write and ask one file, or take what was found of it before."""
        for known in self._known["steps"]:
            if known["budget"] == budget:
                return GuardStep(**known | {"scores": from_json(known["scores"])})
        planned = self._planned(budget)
        trial = self._adapter.artefact(f"{NAME}-trial")
        try:
            self._write(trial)
            [asked] = self._guard.ask(
                [trial],
                self._job.workspace.source,
                self._job.context.threads,
                self._job.context.progress,
            )
            held = self._guard.holds(asked.scores)
            if held:
                self._keep(trial, budget)
        finally:
            own_files.remove(trial)
        return GuardStep(
            budget=budget,
            file_bytes=planned.file_bytes,
            predicted=planned.predicted,
            scores=asked.scores,
            held=held,
        )

    def _planned(self, budget: int) -> PlannedArtefact:
        return search(self._adapter, self._allocation.choices, budget, self._plan)

    def _write(self, path: Path) -> None:
        """Write the file of the plan; of a GGUF only what is not in the optimized one already."""
        adapter = self._adapter
        plain = load(self._allocation.plan).tuning is None
        if adapter.supports_local_search and plain and self._before.is_file():
            adapter.rewrite(self._plan, path, self._before)
        else:
            adapter.write_folder(ArtefactSpec(name=NAME, path=path, plan=self._plan))

    def _keep(self, trial: Path, budget: int) -> None:
        """Give a file that holds its name; the one before was larger."""
        own_files.remove(self._artefact)
        shutil.move(trial, self._artefact)
        self._kept = budget

    def take(self, step: GuardStep) -> Row:
        """The row of the file of a step, which is written again where it is not there."""
        self._planned(step.budget)
        if self._kept != step.budget or not self._artefact.exists():
            self._write(self._artefact)
            self._kept = step.budget
            self._save()
        spec = ArtefactSpec(name=NAME, path=self._artefact, plan=self._plan)
        return self._adapter.describe(spec)
