"""Answers of two models to the same questions, paired: what was lost, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kanna.escaping import visible
from kanna.tasks import ChosenTask
from kanna.tasks.base import TaskAnswer

_Z = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFlip:
    """A question that one of the two models solved and the other did not.

    Attributes:
        prompt: What the user said, one turn per entry.
        expected: What a right answer has.
        reference: The original's answers.
        answer: Those of the file.
        became: `wrong` or `right`.
        why: What is wrong with the one that is.
    """

    prompt: list[str]
    expected: str
    reference: list[str]
    answer: list[str]
    became: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """How a file does on a task beside its original; shares are fractions of 1.

    Attributes:
        name: As the task was named.
        summary: What it asks.
        examples: Questions that both answered.
        reference_solved: How many the original solved.
        solved: How many the file solved.
        lost: How many the original solved and the file did not.
        won: How many the file solved and the original did not.
        loss: Share that was solved, the original's less the file's; below 0 for a gain.
        loss_ci: Its 95 % interval, by Newcombe's method for pairs.
        flips: The questions of `lost` and `won`.
        skipped: Why it was not asked; "" where it was.
    """

    name: str
    summary: str
    examples: int = 0
    reference_solved: int = 0
    solved: int = 0
    lost: int = 0
    won: int = 0
    loss: float | None = None
    loss_ci: tuple[float, float] | None = None
    flips: list[TaskFlip] = field(default_factory=list[TaskFlip])
    skipped: str = ""

    def words(self) -> str:
        """`41 of 50, the original 43; loss 4.0 points (-3.1 to 12.0)`."""
        if self.skipped:
            return f"not asked: {self.skipped}"
        line = f"{self.solved} of {self.examples}, the original {self.reference_solved}"
        if self.loss is None or self.loss_ci is None:
            return line
        low, high = (100 * bound for bound in self.loss_ci)
        return f"{line}; loss {100 * self.loss:.1f} points ({low:.1f} to {high:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswers:
    """One model's answers to the questions of a task.

    Attributes:
        answers: One of each question.
        problems: Why each is not right; "" where it is.
    """

    answers: Sequence[TaskAnswer]
    problems: Sequence[str]


def judge(
    chosen: ChosenTask, answers: Sequence[TaskAnswer], original: JudgedAnswers | None = None
) -> JudgedAnswers:
    """Say of every answer whether it is right.

    Args:
        chosen: The task.
        answers: A model's answers.
        original: Those of the model that it is compared with; None: they are its own.
    """
    beside = original.answers if original else [None] * len(answers)
    score = chosen.task.score
    problems = [
        given.failure or score(example, given, other)
        for example, given, other in zip(chosen.examples, answers, beside, strict=True)
    ]
    return JudgedAnswers(answers=answers, problems=problems)


def pair(
    chosen: ChosenTask, *, chat: bool, reference: JudgedAnswers, own: JudgedAnswers
) -> TaskScore:
    """Compare both models' answers question by question.

    Args:
        chosen: The task.
        chat: Whether questions were put through the chat template.
        reference: The original's answers.
        own: The file's.
    """
    right = [0, 0, 0, 0]  # both, the original alone, the file alone, none
    flips: list[TaskFlip] = []
    for at, example in enumerate(chosen.examples):
        problem, own_problem = reference.problems[at], own.problems[at]
        right[2 * bool(problem) + bool(own_problem)] += 1
        if bool(problem) != bool(own_problem):
            prompt = chosen.task.prompt(example, chat)
            flips.append(
                TaskFlip(
                    prompt=list(prompt.turns),
                    expected=prompt.expected,
                    reference=list(reference.answers[at].texts),
                    answer=list(own.answers[at].texts),
                    became="wrong" if own_problem else "right",
                    why=own_problem or problem,
                )
            )
    both, lost, won, _ = right
    count = sum(right)
    return TaskScore(
        name=chosen.name,
        summary=chosen.task.summary,
        examples=count,
        reference_solved=both + lost,
        solved=both + won,
        lost=lost,
        won=won,
        loss=(lost - won) / count,
        loss_ci=newcombe(*right),
        flips=flips,
    )


def from_json(listed: Iterable[Mapping[str, Any]]) -> list[TaskScore]:
    """Scores as JSON has them.

    Args:
        listed: `tasks` of an evaluation, a verification or a report.
    """
    known = {one.name for one in fields(TaskScore)}
    return [
        replace(
            TaskScore(**{name: value for name, value in score.items() if name in known}),
            flips=[TaskFlip(**flip) for flip in score["flips"]],
        )
        for score in listed
    ]


def flip_lines(scores: Iterable[TaskScore], most: int = 3) -> list[str]:
    """The first flips of each task, a line each, and how many more there are.

    Args:
        scores: Of the tasks.
        most: Flips of a task that are shown.
    """
    lines: list[str] = []
    for score in scores:
        for flip in score.flips[:most]:
            asked, answer = (visible(" ".join(t[-1:])) for t in (flip.prompt, flip.answer))
            lines.append(f"  {score.name}, now {flip.became}: {asked[-90:]} → {answer[:60]}")
        if (more := len(score.flips) - most) > 0:
            lines.append(f"  {score.name}: {more} more flipped, all of them in --json")
    return lines


def certain_loss(scores: Iterable[TaskScore]) -> float | None:
    """The loss that the intervals leave no doubt of; None where no task was asked.

    The largest lower end of the tasks' intervals, or of that of all their questions together; 0
    where a loss may as well be none: one answer of fifty decides no grade.
    """
    asked = [s for s in scores if not s.skipped]
    if not asked:
        return None
    both = sum(s.solved - s.won for s in asked)
    lost, won = sum(s.lost for s in asked), sum(s.won for s in asked)
    neither = sum(s.examples for s in asked) - both - lost - won
    lows = [s.loss_ci[0] for s in asked if s.loss_ci]
    return max(0.0, newcombe(both, lost, won, neither)[0], *lows)


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired shares, that of the first less the second's.

    Method 10 of Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data, Statistics in Medicine 17 (1998): Wilson's intervals of both
    shares, joined by their correlation. It is no point where nothing flipped.

    Args:
        both: Pairs in which both are right.
        first: In which the first alone is.
        second: In which the second alone is.
        neither: In which none is.
    """
    count = both + first + second + neither
    ours, theirs = both + first, both + second
    p, q = ours / count, theirs / count
    (p_low, p_high), (q_low, q_high) = _wilson(ours, count), _wilson(theirs, count)
    margins = ours * (count - ours) * theirs * (count - theirs)
    excess = both * neither - first * second
    if excess > 0:  # the correction for continuity, against a correlation by chance
        excess = max(0.0, excess - count / 2)
    phi = excess / math.sqrt(margins) if margins else 0.0

    def spread(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return (
        p - q - spread(p - p_low, q_high - q),
        p - q + spread(p_high - p, q - q_low),
    )


def _wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z = successes / count, _Z
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (middle - half) / scale, (middle + half) / scale
