"""Tasks that a file must not lose: `--guard tool-calls`, each with how much may be lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kanna import tasks
from kanna._util.progress import Progress
from kanna.checks import Check
from kanna.comparison.rows import Row
from kanna.errors import UsageError
from kanna.evaluation.behaviour import compare_behaviour
from kanna.sources import Source
from kanna.tasks import ChosenTask
from kanna.tasks.pairing import TaskScore

CHECK = "guard"
_FORM = "TASK or TASK:TOLERANCE, such as tool-calls or maths:0.05"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The tasks that judge files.

    Attributes:
        chosen: The tasks with their questions.
        tolerances: Share of each that may be lost, by its name.
    """

    chosen: Sequence[ChosenTask]
    tolerances: dict[str, float]

    def judge(
        self, rows: Sequence[Row], source: Source, threads: int | None, progress: Progress
    ) -> list[str]:
        """Ask files the tasks: a check of each task, beside those of the gate.

        Args:
            rows: The files; those that failed a check before are left out.
            source: What they are compared with.
            threads: Threads to use.
            progress: Where progress is reported.

        Returns:
            Remarks on the tasks.
        """
        able = [row for row in rows if row.path and row.gate != "failed"]
        if not able:
            return []
        asked = compare_behaviour(
            [Path(row.path or "") for row in able],
            self.chosen,
            reference=source,
            threads=threads,
            progress=progress,
        )
        for row, behaviour in zip(able, asked, strict=True):
            made = [self.check(score) for score in behaviour.scores]
            row.tasks = [asdict(score) for score in behaviour.scores]
            row.task_loss = behaviour.loss
            row.checks = [*row.checks, *(check.to_dict() for check in made)]
            if any(check.ok is False for check in made):
                row.gate = "failed"
            elif any(check.ok is None for check in made) and row.gate == "proved":
                row.gate = "unprovable"
        return list(dict.fromkeys(note for behaviour in asked for note in behaviour.notes))

    def check(self, score: TaskScore) -> Check:
        """What a score says of a file: only a loss that is sure fails it.

        Args:
            score: Of one of the tasks.
        """
        tolerance = self.tolerances[score.name]
        name = f"{CHECK} {score.name}"
        if score.loss_ci is None or not score.reference_solved:
            why = score.skipped or "the original solves nothing of it"
            return Check(name=name, ok=None, detail=f"cannot be held: {why}")
        return Check(
            name=name,
            ok=score.loss_ci[0] <= tolerance,
            detail=f"{score.words()}; {100 * tolerance:g} points may be lost",
        )


def open_guard(given: Sequence[str], examples: int | None = None) -> Guard | None:
    """The guard that a request names; None where it names none.

    Args:
        given: Tasks, `maths:0.05` with a tolerance, `choice:FILE.jsonl:0.05` too.
        examples: Questions of each at most.

    Raises:
        UsageError: A task is not known, a tolerance is no share, or a file is malformed.
    """
    tolerances: dict[str, float] = {}
    for one in given:
        name, tolerance = _parsed(one)
        tolerances[name] = tolerance
    if not tolerances:
        return None
    return Guard(chosen=tasks.choose([*tolerances], examples), tolerances=tolerances)


def _parsed(given: str) -> tuple[str, float]:
    name, colon, last = given.rpartition(":")
    if not colon or (name in tasks.names() and tasks.get(name).argument):
        return given, 0.0  # a task alone, or `choice:FILE`
    try:
        tolerance = float(last)
    except ValueError:
        task = given.partition(":")[0]
        if task in tasks.names() and tasks.get(task).argument:
            return given, 0.0  # a place with a colon in it
        raise UsageError(f"the guard {given!r}", expected=_FORM) from None
    if not (math.isfinite(tolerance) and 0 <= tolerance < 1):
        raise UsageError(
            f"the guard {given!r}", expected="a tolerance from 0 to 1: 0.05 is five points of 100"
        )
    return name, tolerance
