"""The contract of a task: its questions, how they are put, and when an answer is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

E = TypeVar("E")

ENDED = "eog"
"""Reason of an answer that the model ended by itself; see `GenerationStats.reason`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPrompt:
    """One question as a model gets it.

    Attributes:
        turns: What the user says, one after another; each is answered before the next. For a model
            without a chat template, the text it goes on with.
        stop: Texts that end an answer.
        tools: What the model may call, in OpenAI's shape.
        choices: What it chooses from by their probability; nothing is generated then.
        expected: What a right answer has, for people.
        joint: What stands between a question and its choice, where there is no chat template.
        max_tokens: New tokens of an answer at most; None for those of the task.
    """

    turns: tuple[str, ...]
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    choices: tuple[str, ...] = ()
    expected: str = ""
    joint: str = " "
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAnswer:
    """What a model made of a question.

    Attributes:
        texts: The answer to each turn; of a choice its text.
        reasons: Why each ended; see `GenerationStats.reason`.
        picked: Index of the choice.
        scores: Of each choice, its log-probability per byte, in nats.
        failure: Why there is no answer; "" where there is one.
        markers: Pieces of the chat template that stand for roles and turns.
    """

    texts: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    picked: int | None = None
    scores: tuple[float, ...] = ()
    failure: str = ""
    markers: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The last text, the one that counts in most tasks."""
        return self.texts[-1] if self.texts else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[E]):
    """What a module in this package exports as `TASK`; its name is the module's.

    Attributes:
        summary: What it asks, in a line.
        count: Questions that are asked where nobody says how many.
        max_tokens: New tokens of an answer at most.
        examples: Its questions: given what follows the colon of `choice:FILE` ("" for nothing) and
            how many at most, None for the task's own number. Raises UsageError for a bad file.
        prompt: How a question is put: to a model with a chat template, or as plain text.
        score: Why an answer is not right, "" where it is; the second answer is that of the
            original, None where the original's own is scored.
        needs_chat: Whether it makes no sense without a chat template.
        argument: What must follow the name after a colon, for people; "" for nothing.
    """

    summary: str
    count: int
    examples: Callable[[str, int | None], Sequence[E]]
    prompt: Callable[[E, bool], TaskPrompt]
    score: Callable[[E, TaskAnswer, TaskAnswer | None], str]
    max_tokens: int = 128
    needs_chat: bool = False
    argument: str = ""
