"""The two domains that adapters are trained on, made from nothing but a seed and a package.

tools
    Requests that one of three offered functions serves, and the call as JSON between tags, drawn
    from a grammar. The functions stand in the message of the user, as signatures: the templates of
    small models have no place for them.
wikitext
    Passages of WikiText-2, whose spaces around marks no chat model expects: training from its
    validation part, held-out ones from its test part.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanna.sources import packages
from kanna.tasks.tool_calls import calls

SEED = 20260105
_OFFERED = 3
_PASSAGE = 600
"""Characters of a passage of WikiText at most, about 150 tokens."""

_SLOTS: dict[str, tuple[Any, ...]] = {
    "city": ("Lisbon", "Oslo", "Lima", "Kyoto", "Accra", "Turin", "Quito", "Perth", "Graz", "Cork"),
    "day": ("today", "tomorrow", "friday", "sunday"),
    "title": ("dentist", "team lunch", "piano lesson", "budget review", "school play", "haircut"),
    "hour": (7, 8, 9, 11, 14, 16, 18, 20),
    "person": ("Alma", "Bo", "Carla", "Deniz", "Eve", "Finn", "Goran", "Hana"),
    "text": ("I am late", "see you at noon", "the keys are here", "call me back", "all is well"),
    "amount": (10, 25, 40, 75, 120, 300, 999),
    "source": ("EUR", "USD", "JPY"),
    "target": ("CHF", "GBP", "NOK"),
    "room": ("kitchen", "bedroom", "hall", "office", "garage"),
    "degrees": (16, 18, 19, 20, 21, 23),
    "item": ("milk", "rice", "soap", "tea", "batteries", "apples", "candles"),
    "count": (1, 2, 3, 4, 6, 12),
    "table": ("orders", "users", "invoices", "parcels"),
    "field": ("status", "country", "month", "owner"),
}
_NUMBERS = {"hour", "amount", "degrees", "count"}
_RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "get_forecast": (
        ("city", "day"),
        ("what will the weather in {city} be {day}", "do I need a coat in {city} {day}"),
    ),
    "add_event": (
        ("title", "day", "hour"),
        ("put {title} into my calendar, {day} at {hour}", "I have {title} {day}, {hour} o'clock"),
    ),
    "send_message": (
        ("person", "text"),
        ('write "{text}" to {person}', 'tell {person} this: "{text}"'),
    ),
    "convert_money": (
        ("amount", "source", "target"),
        ("how much are {amount} {source} in {target}", "change {amount} {source} to {target}"),
    ),
    "set_heating": (
        ("room", "degrees"),
        ("make the {room} {degrees} degrees warm", "heat the {room} to {degrees}"),
    ),
    "add_to_list": (
        ("item", "count"),
        ("we are out of {item}, get {count}", "{count} {item} on the shopping list"),
    ),
    "count_rows": (
        ("table", "field"),
        ("how many {table} are there by {field}", "group the {table} by {field} and count"),
    ),
}
"""Function → its parameters, and phrases that ask for it."""
_OPENINGS = ("", "Please: ", "Hi, ", "Quick one, ", "For later: ")


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation of one turn.

    Attributes:
        prompt: What the user says; "" where all of the text is learned.
        answer: What is learned.
        tools: What the user offers, in OpenAI's shape.
    """

    prompt: str
    answer: str
    tools: Sequence[dict[str, Any]] = ()

    def to_json(self, *, chat: bool = True) -> str:
        """The line of training data.

        Args:
            chat: Whether the model has a chat template.
        """
        if not self.prompt:
            return json.dumps({"text": self.answer}, ensure_ascii=False)
        if not chat:
            pair = {"prompt": f"{self.prompt}\n", "completion": self.answer}
            return json.dumps(pair, ensure_ascii=False)
        turns = [("user", self.prompt), ("assistant", self.answer)]
        return json.dumps(
            {"messages": [{"role": role, "content": text} for role, text in turns]},
            ensure_ascii=False,
        )

    def valid(self, answer: str) -> bool:
        """Whether an answer makes calls that its tools take."""
        return not isinstance(calls(answer, self.tools), str)

    def right(self, answer: str) -> bool:
        """Whether it makes the call that was asked for."""
        return calls(answer, self.tools) == calls(self.answer, self.tools)


def _tool(name: str) -> dict[str, Any]:
    parameters = _RULES[name][0]
    kinds = {n: {"type": "integer" if n in _NUMBERS else "string"} for n in parameters}
    schema = {
        "type": "object",
        "properties": kinds,
        "required": list(parameters),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _signature(name: str) -> str:
    parameters = (f"{n}: {'integer' if n in _NUMBERS else 'string'}" for n in _RULES[name][0])
    return f"{name}({', '.join(parameters)})"


def tools(count: int, held_out: int) -> tuple[list[Chat], list[Chat]]:
    """Calls to learn, and others, none of which is among them, to judge by."""
    rng, seen = random.Random(SEED), dict[str, Chat]()
    while len(seen) < count + held_out:
        name = rng.choice(list(_RULES))
        parameters, phrases = _RULES[name]
        values = {n: rng.choice(_SLOTS[n]) for n in parameters}
        asked = rng.choice(_OPENINGS) + rng.choice(phrases).format(**values)
        offered = [name, *rng.sample([r for r in _RULES if r != name], _OFFERED - 1)]
        rng.shuffle(offered)
        call = json.dumps({"name": name, "arguments": values})
        seen.setdefault(
            asked,
            Chat(
                prompt="\n".join(["Functions:", *map(_signature, offered), "", f"{asked}."]),
                answer=f"<tool_call>\n{call}\n</tool_call>",
                tools=[_tool(n) for n in offered],
            ),
        )
    made = list(seen.values())
    return made[:count], made[count:]


def wikitext(count: int, held_out: int) -> tuple[list[Chat], list[Chat]]:
    """Passages to learn, and passages of other articles to judge by."""
    return _passages("valid", count), _passages("test", held_out)


def _passages(part: str, count: int) -> list[Chat]:
    lines = (line.strip() for line in packages.wikitext(part).read_text("utf-8").splitlines())
    long = [line[:_PASSAGE].rpartition(" . ")[0] for line in lines if not line.startswith("=")]
    able = [f"{text} ." for text in long if len(text) > _PASSAGE // 3]
    return [Chat("", text) for text in random.Random(SEED).sample(able, count)]


DOMAINS: dict[str, Callable[[int, int], tuple[list[Chat], list[Chat]]]] = {
    "tools": tools,
    "wikitext": wikitext,
}


def write(path: Path, chats: Sequence[Chat], *, chat: bool = True) -> Path:
    """Write training data, for a model with a chat template or without."""
    lines = (f"{one.to_json(chat=chat)}\n" for one in chats)
    path.write_text("".join(lines), encoding="utf-8")
    return path
