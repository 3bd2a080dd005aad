"""`json`: facts of a sentence, as JSON that matches a schema; nothing constrains the answer."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from kanna.tasks import json_text
from kanna.tasks.base import Task, TaskAnswer, TaskPrompt

_SEED = 20260102
_COUNT = 40
_NAMES = ("Alma Reyes", "Bo Lindqvist", "Carla Neri", "Deniz Kaya", "Eve Okafor", "Finn Moser")
_CITIES = ("Lisbon", "Oslo", "Lima", "Kyoto", "Accra", "Turin", "Quito", "Perth")
_TOPICS = ("bread", "bicycles", "birds", "harbours", "clay", "maps", "moss", "tides")
_SHOT_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_SHOT = '{"name": "Otto Lang", "age": 61}'


@dataclass(frozen=True, slots=True)
class Extraction:
    """A sentence, and the schema of what is to be read from it."""

    sentence: str
    schema: dict[str, Any]


def _schema(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _person(rng: random.Random) -> Extraction:
    name, city, age = rng.choice(_NAMES), rng.choice(_CITIES), rng.randint(19, 80)
    return Extraction(
        f"{name}, {age} years old, lives in {city}.",
        _schema(name={"type": "string"}, age={"type": "integer"}, city={"type": "string"}),
    )


def _order(rng: random.Random) -> Extraction:
    size, paid = rng.choice(("small", "medium", "large")), rng.random() < 0.5
    return Extraction(
        f"{rng.choice(_NAMES)} ordered {rng.randint(2, 9)} {size} boxes, which are "
        f"{'paid already' if paid else 'not paid yet'}.",
        _schema(
            quantity={"type": "integer"},
            size={"type": "string", "enum": ["small", "medium", "large"]},
            paid={"type": "boolean"},
        ),
    )


def _book(rng: random.Random) -> Extraction:
    first, second = rng.sample(_TOPICS, 2)
    return Extraction(
        f"The book by {rng.choice(_NAMES)} is about {first} and {second} and has "
        f"{rng.randint(90, 600)} pages.",
        _schema(
            author={"type": "string"},
            topics={"type": "array", "items": {"type": "string"}},
            pages={"type": "integer"},
        ),
    )


def _weather(rng: random.Random) -> Extraction:
    degrees = rng.randint(-80, 350) / 10
    return Extraction(
        f"In {rng.choice(_CITIES)} it is {degrees} degrees, with {rng.choice(('rain', 'sun'))}.",
        _schema(
            city={"type": "string"},
            degrees={"type": "number"},
            sky={"type": "string", "enum": ["rain", "sun"]},
        ),
    )


_KINDS = (_person, _order, _book, _weather)


def _examples(argument: str, count: int | None) -> list[Extraction]:
    rng = random.Random(_SEED)
    return [_KINDS[i % len(_KINDS)](rng) for i in range(count or _COUNT)]


def _asked(sentence: str, schema: dict[str, Any]) -> str:
    return (
        f"Text: {sentence}\nWrite what it says as one JSON object that matches this JSON schema:\n"
        f"{json.dumps(schema)}\n"
    )


def _prompt(example: Extraction, chat: bool) -> TaskPrompt:
    asked = _asked(example.sentence, example.schema)
    expected = "a JSON object that matches the schema"
    if chat:
        return TaskPrompt(turns=(f"{asked}Answer with the JSON object alone.",), expected=expected)
    shot = _asked("Otto Lang is 61 years old.", _SHOT_SCHEMA)
    return TaskPrompt(
        turns=(f"{shot}JSON: {_SHOT}\n\n{asked}JSON:",), stop=("\n",), expected=expected
    )


def _score(example: Extraction, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    try:
        value = json_text.whole(answer.last)
    except ValueError:
        return "not JSON alone"
    return json_text.problem(value, example.schema)


TASK = Task(
    summary="Facts as JSON: does the answer match the schema, unconstrained",
    count=_COUNT,
    max_tokens=128,
    examples=_examples,
    prompt=_prompt,
    score=_score,
)
