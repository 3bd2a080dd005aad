"""Retention on tasks: the share of what a fine-tune gained in answers that an artefact keeps.

(solved by the artefact − solved by the base) / (solved by the tuned model − solved by the base),
all three in the runtime that the artefact runs in, on the same questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from kanna._util.progress import Progress
from kanna.checks import Check
from kanna.evaluation.behaviour import ask_original
from kanna.evaluation.reference import open_reference
from kanna.tasks import ChosenTask
from kanna.tasks.answering import CONTEXT
from kanna.tasks.pairing import JudgedAnswers, TaskScore
from kanna.tasks.run import OriginalAnswers
from kanna.verification.retention import RetentionCase, interval, opened, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetention(TaskScore):
    """What an artefact keeps of a task; the original of its score is the tuned model.

    Attributes:
        base_solved: How many questions the base model solved.
        share: (solved − base_solved) / (reference_solved − base_solved); None: nothing was gained.
        interval: Its 95 % interval over questions; None: so few leave open whether there is a gain.
        least: The share that is asked for.
    """

    base_solved: int = 0
    share: float | None = None
    interval: tuple[float, float] | None = None
    least: float = 0.0


def measure(
    case: RetentionCase, chosen: Sequence[ChosenTask], least: float, progress: Progress
) -> list[list[TaskRetention]]:
    """Ask the tuned model, the base and the artefacts, one after another.

    Args:
        case: What is compared.
        chosen: The tasks.
        least: Share of the gain that must be kept.
        progress: Where progress is reported.

    Returns:
        Of each artefact, what it keeps of each task.

    Raises:
        GateError: A model gives logits that are not numbers.
    """
    if not chosen:
        return [[] for _ in case.artefacts]
    judged, threads = [whole(case, one) for one in case.artefacts], case.threads
    tuned = ask_original(chosen, case.tuned, judged, threads=threads, progress=progress)
    questions = sum(len(one.examples) for one in chosen)
    progress.start("tasks", (1 + len(judged)) * questions, "questions")
    base, _ = open_reference(case.base, judged, context=CONTEXT, threads=threads)
    with base:
        before = tuned.ask(base, progress)
    measured: list[list[TaskRetention]] = []
    for one in case.artefacts:
        with opened(case, one, room=max(0, CONTEXT - case.context)) as artefact:
            now = tuned.ask(artefact, progress)
        measured.append(
            [_kept(score, tuned, before, now, least=least) for score in tuned.pair(now)]
        )
    progress.finish()
    return measured


def _kept(
    score: TaskScore,
    tuned: OriginalAnswers,
    before: Mapping[str, JudgedAnswers],
    now: Mapping[str, JudgedAnswers],
    *,
    least: float,
) -> TaskRetention:
    """The score of an artefact with that of the base beside it."""
    given: dict[str, Any] = {one.name: getattr(score, one.name) for one in fields(TaskScore)}
    given["least"] = least
    if score.skipped:
        return TaskRetention(**given)
    answers = [models[score.name] for models in (before, tuned.judged, now)]
    wrong = np.array([[float(bool(problem)) for problem in one.problems] for one in answers])
    of_base, of_tuned, of_artefact = wrong.sum(axis=1)
    gain = of_base - of_tuned
    return TaskRetention(
        **given,
        base_solved=score.examples - int(of_base),
        share=float(of_base - of_artefact) / float(gain) if gain > 0 else None,
        interval=interval(wrong) if gain > 0 else None,
    )


def check(kept: TaskRetention) -> Check:
    """What the figures of a task say of the artefact.

    Args:
        kept: The figures.
    """
    name = f"retention of {kept.name}"
    if kept.skipped:
        return Check(name=name, ok=None, detail=f"not asked: {kept.skipped}")
    solved = (
        f"of {kept.examples} questions {kept.base_solved} solved by the base, "
        f"{kept.reference_solved} by the tuned model, {kept.solved} here; "
        f"{kept.lost} lost and {kept.won} won beside the tuned model"
    )
    if kept.share is None:
        return Check(name=name, ok=None, detail=f"the fine-tune gained nothing on it: {solved}")
    if kept.interval is None:
        why = "too few questions to be sure of a gain, --examples asks more"
        return Check(name=name, ok=None, detail=f"{why}: {solved}")
    low, high = kept.interval
    return Check(
        name=name,
        ok=kept.share >= kept.least,
        detail=f"{kept.share:.1%} ({low:.1%} to {high:.1%}) of the gain is kept, {kept.least:.0%} "
        f"is asked for; {solved}",
    )
