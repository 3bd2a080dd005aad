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
from kanna.evaluation.behaviour import Behaviour, ask_original, compare_answers
from kanna.model import Model
from kanna.sources import Source
from kanna.tasks import ChosenTask
from kanna.tasks.pairing import TaskScore, certain_loss
from kanna.tasks.run import OriginalAnswers

CHECK = "guard"
_QUESTION_TOKENS = 200
"""Of a question with its template; answers are about half as long as they may be."""
_FILE_QUESTIONS = 100
"""Of a file, which nobody has read yet when the time is predicted."""
_FORM = "TASK or TASK:TOLERANCE, such as tool-calls or maths:0.05"


@dataclass(slots=True, kw_only=True)
class Guard:
    """The tasks that judge files.

    Attributes:
        chosen: The tasks with their questions.
        tolerances: Share of each that may be lost, by its name.
        original: What the original answered, once it was asked.
    """

    chosen: Sequence[ChosenTask]
    tolerances: dict[str, float]
    original: OriginalAnswers | None = None

    def ask(
        self, paths: Sequence[Path], source: Source, threads: int | None, progress: Progress
    ) -> list[Behaviour]:
        """Ask files the tasks, and once the original.

        Args:
            paths: The files, of one format.
            source: What they are compared with.
            threads: Threads to use.
            progress: Where progress is reported.
        """
        if self.original is None:
            self.original = ask_original(
                self.chosen, source, paths, threads=threads, progress=progress
            )
        return compare_answers(paths, self.original, threads=threads, progress=progress)

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
        asked = self.ask([Path(row.path or "") for row in able], source, threads, progress)
        for row, behaviour in zip(able, asked, strict=True):
            self.mark(row, behaviour.scores)
        return list(dict.fromkeys(note for behaviour in asked for note in behaviour.notes))

    def mark(self, row: Row, scores: Sequence[TaskScore]) -> None:
        """Give a row what the tasks say of its file.

        Args:
            row: Its checks before; what failed stays so.
            scores: Of each task.
        """
        made = [self.check(score) for score in scores]
        row.tasks = [asdict(score) for score in scores]
        row.task_loss = certain_loss(scores)
        row.checks = [*row.checks, *(check.to_dict() for check in made)]
        if any(check.ok is False for check in made):
            row.gate = "failed"
        elif any(check.ok is None for check in made) and row.gate == "proved":
            row.gate = "unprovable"

    def holds(self, scores: Sequence[TaskScore]) -> bool:
        """Whether no task was surely lost beyond its tolerance."""
        return all(self.check(score).ok is not False for score in scores)

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
    parsed = [_parsed(one) for one in given]
    if not parsed:
        return None
    tasks.refuse_repeated(name for name, _ in parsed)  # `maths` and `maths:0.05`, too
    tolerances = dict(parsed)
    return Guard(chosen=tasks.choose([*tolerances], examples), tolerances=tolerances)


def refuse_silent(given: Sequence[str], model: Model, source: Source) -> None:
    """Raise UsageError for a guard that asks in a chat, of a source without a chat template.

    Args:
        given: As for `open_guard`; no file is read for it.
        model: What is optimized.
        source: Where it is.
    """
    if model.meta("tokenizer.chat_template") or source.text("chat_template.jinja"):
        return
    for one in given:
        if tasks.get(_parsed(one)[0].partition(":")[0]).needs_chat:
            plain = [name for name in tasks.names() if not tasks.get(name).needs_chat]
            raise UsageError(
                f"the guard {one!r} asks in a chat, and the source carries no chat template",
                expected=", ".join(plain),
                todo="guard it by another task, or name a source that has its chat template",
            )


def guard_tokens(given: Sequence[str], examples: int | None = None) -> int:
    """About how many tokens a file reads and writes to answer tasks that a request names.

    Args:
        given: As for `open_guard`; no file is read for it.
        examples: Questions of each at most.

    Raises:
        UsageError: A task is not known, or a tolerance is no share.
    """
    total = 0
    for one in given:
        task = tasks.get(_parsed(one)[0].partition(":")[0])
        asked = examples or task.count or _FILE_QUESTIONS
        total += asked * (_QUESTION_TOKENS + (0 if task.argument else task.max_tokens // 2))
    return total


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
        tasks.get(task)  # the names that there are, where it is none
        raise UsageError(f"the guard {given!r}", expected=_FORM) from None
    if not (math.isfinite(tolerance) and 0 <= tolerance < 1):
        raise UsageError(
            f"the guard {given!r}", expected="a tolerance from 0 to 1: 0.05 is five points of 100"
        )
    return name, tolerance
