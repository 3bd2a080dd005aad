"""`tool-calls`: requests that one of three tools serves; the call must be valid, and the same."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanna.tasks import json_text
from kanna.tasks.base import Task, TaskAnswer, TaskPrompt

_SEED = 20260103
_COUNT = 50
_OFFERED = 3

_SLOTS: dict[str, tuple[Any, ...]] = {
    "city": ("Lisbon", "Oslo", "Lima", "Kyoto", "Accra", "Turin", "Quito", "Perth", "Graz"),
    "unit": ("celsius", "fahrenheit"),
    "minutes": (3, 5, 8, 12, 15, 25, 40, 90),
    "label": ("tea", "bread", "laundry", "a walk", "the oven", "a nap"),
    "to": ("Alma", "Bo", "Carla", "Deniz", "Eve", "Finn"),
    "text": ("I am late", "see you at noon", "the keys are here", "call me back", "all is well"),
    "amount": (10, 25, 40, 75, 120, 300, 999),
    "source": ("EUR", "USD", "JPY"),
    "target": ("CHF", "GBP", "NOK"),
    "artist": ("Bach", "Fela Kuti", "Mercedes Sosa", "Erik Satie", "Miriam Makeba"),
    "volume": (10, 20, 35, 50, 80),
    "room": ("kitchen", "bedroom", "hall", "office"),
    "state": ("on", "off"),
}
"""Values of each parameter: what the grammar draws from."""
_OPENINGS = ("", "Please ", "Could you ", "I would like you to ")
_NUMBERS = {"minutes": (1, 600), "amount": (1, 100_000), "volume": (0, 100)}
_ENUMS = {"unit", "state", "source", "target", "room"}


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A tool and the phrases that ask for it, with its parameters in braces."""

    name: str
    description: str
    parameters: tuple[str, ...]
    phrases: tuple[str, ...]


_RULES = (
    ToolRule(
        "get_weather",
        "The weather in a city now.",
        ("city", "unit"),
        (
            "tell me the weather in {city} in {unit}",
            "check how warm it is in {city}, in {unit}",
        ),
    ),
    ToolRule(
        "set_timer",
        "Start a kitchen timer.",
        ("minutes", "label"),
        (
            "set a timer of {minutes} minutes for {label}",
            "remind me in {minutes} minutes of {label}",
        ),
    ),
    ToolRule(
        "send_message",
        "Send a text message to a person.",
        ("to", "text"),
        ('write "{text}" to {to}', 'send {to} the message "{text}"'),
    ),
    ToolRule(
        "convert_currency",
        "Convert an amount of money.",
        ("amount", "source", "target"),
        (
            "convert {amount} {source} to {target}",
            "work out what {amount} {source} are in {target}",
        ),
    ),
    ToolRule(
        "play_music",
        "Play an artist's music.",
        ("artist", "volume"),
        ("play {artist} at volume {volume}", "put on some {artist}, volume {volume}"),
    ),
    ToolRule(
        "switch_light",
        "Switch the light of a room on or off.",
        ("room", "state"),
        ("turn the light in the {room} {state}", "switch {state} the {room} light"),
    ),
)


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A request, and the tools that are offered for it."""

    text: str
    tools: tuple[dict[str, Any], ...]


def _parameter(name: str) -> dict[str, Any]:
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        return {"type": "integer", "minimum": low, "maximum": high}
    if name in _ENUMS:
        return {"type": "string", "enum": list(_SLOTS[name])}
    return {"type": "string"}


def _tool(rule: ToolRule) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {name: _parameter(name) for name in rule.parameters},
        "required": list(rule.parameters),
        "additionalProperties": False,
    }
    function = {"name": rule.name, "description": rule.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _examples(argument: str, count: int | None) -> list[ToolRequest]:
    rng = random.Random(_SEED)
    requests: list[ToolRequest] = []
    for number in range(count or _COUNT):
        rule = _RULES[number % len(_RULES)]
        values = {name: rng.choice(_SLOTS[name]) for name in rule.parameters}
        text = rng.choice(_OPENINGS) + rng.choice(rule.phrases).format(**values)
        others = rng.sample([r for r in _RULES if r is not rule], _OFFERED - 1)
        offered = [rule, *others]
        rng.shuffle(offered)
        requests.append(ToolRequest(text[0].upper() + text[1:] + ".", tuple(map(_tool, offered))))
    return requests


def _prompt(request: ToolRequest, chat: bool) -> TaskPrompt:
    return TaskPrompt(
        turns=(request.text,),
        tools=request.tools,
        expected="a valid call, the same as the original's where that is valid",
    )


def calls(text: str, tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]] | str:
    """The calls in an answer, (name, arguments), or why there are none that are valid.

    A call is an object with `name` and `arguments` (or `parameters`), wherever it stands: between
    tags, in a list, or alone.
    """
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    made: list[tuple[str, dict[str, Any]]] = []
    for value in json_text.objects(text):
        if "name" not in value or not {"arguments", "parameters"} & value.keys():
            continue
        given: Any
        name, given = value["name"], value.get("arguments", value.get("parameters"))
        if not isinstance(name, str) or name not in known:
            return f"a call of {name!r:.40}, which is not offered"
        if isinstance(given, str):
            try:
                given = json_text.whole(given)
            except ValueError:
                return f"arguments of {name} that are no JSON"
        if problem := json_text.problem(given, known[name]):
            return f"{name}: {problem}"
        made.append((name, given))
    return made or "no call"


def _score(request: ToolRequest, answer: TaskAnswer, reference: TaskAnswer | None) -> str:
    made = calls(answer.last, request.tools)
    if isinstance(made, str):
        return made
    wanted = calls(reference.last, request.tools) if reference is not None else ""
    if isinstance(wanted, str) or made == wanted:
        return ""
    return f"another call than the original's: {_shown(made)}, not {_shown(wanted)}"


def _shown(made: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return "; ".join(
        f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})" for name, given in made
    )


TASK = Task(
    summary="Tool calls: valid, and equal to the original's",
    count=_COUNT,
    max_tokens=128,
    examples=_examples,
    prompt=_prompt,
    score=_score,
    needs_chat=True,
)
