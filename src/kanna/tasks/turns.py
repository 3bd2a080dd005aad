"""`turns`: a conversation whose end needs its beginning, and whose answers end by themselves."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kanna.tasks.base import ENDED, Task, TaskAnswer, TaskPrompt

_SEED = 20260104
_COUNT = 30
_FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("My cat is called {}.", "What is my cat called?", ("Pixel", "Mango", "Basil", "Otis")),
    ("I live in {}.", "In which city do I live?", ("Oslo", "Lima", "Kyoto", "Turin", "Accra")),
    ("My lucky number is {}.", "What is my lucky number?", ("17", "42", "68", "93", "256")),
    ("My favourite colour is {}.", "What is my favourite colour?", ("teal", "crimson", "ochre")),
    ("I play the {}.", "Which instrument do I play?", ("cello", "oboe", "banjo", "harp")),
)
_BETWEEN = (
    "Which is larger, the sun or the moon? Answer in one short sentence.",
    "Name one animal that lives in the sea.",
    "How many days has a week?",
    "Name one fruit that is yellow.",
)


@dataclass(frozen=True, slots=True)
class RememberedFact:
    """What the user says, and the word that the last answer must hold."""

    turns: tuple[str, ...]
    fact: str


def _examples(argument: str, count: int | None) -> list[RememberedFact]:
    rng = random.Random(_SEED)
    conversations: list[RememberedFact] = []
    for number in range(count or _COUNT):
        statement, asked, values = _FACTS[number % len(_FACTS)]
        fact = rng.choice(values)
        turns = (
            f"Hello! {statement.format(fact)}",
            rng.choice(_BETWEEN),
            f"{asked} Answer briefly.",
        )
        conversations.append(RememberedFact(turns, fact))
    return conversations


def _prompt(conversation: RememberedFact, chat: bool) -> TaskPrompt:
    return TaskPrompt(
        turns=conversation.turns,
        expected=f"{conversation.fact} in the last answer, and every answer ended by the model",
    )


def _score(conversation: RememberedFact, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    for number, (text, reason) in enumerate(zip(answer.texts, answer.reasons, strict=True), 1):
        if reason != ENDED:
            return f"answer {number} does not end"
        if leaked := next((m for m in answer.markers if m in text), ""):
            return f"answer {number} holds {leaked!r} of the chat template"
    if conversation.fact.casefold() not in answer.last.casefold():
        return f"{conversation.fact} is forgotten"
    return ""


TASK = Task(
    summary="Conversations: does it end its turns, and remember what was said",
    count=_COUNT,
    max_tokens=96,
    examples=_examples,
    prompt=_prompt,
    score=_score,
    needs_chat=True,
)
