"""Pairs of answers, one preferred to the other: read strictly, each line checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kanna.errors import UsageError
from kanna.training import tables
from kanna.training.examples import Example, Examples, gather
from kanna.training.messages import LINE_TODO, list_of, message_of, tools_of

FORMS = (
    '{"prompt": …, "chosen": …, "rejected": …}, the prompt a text or a list of messages, or '
    '{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}'
)
_OPENAI = ("input", "preferred_output", "non_preferred_output")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """One prompt with two answers.

    Attributes:
        where: File and line.
        chosen: The prompt with the answer that is preferred.
        rejected: The prompt with the other.
    """

    where: str
    chosen: Example
    rejected: Example

    def to_json(self) -> str:
        """The pair as a line of JSON, which `read` reads."""
        if self.chosen.messages:
            prompt, answers = list(self.chosen.messages[:-1]), (self.chosen, self.rejected)
            sides = [[answer.messages[-1]] for answer in answers]
            value: dict[str, Any] = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}
            value |= {"tools": list(self.chosen.tools)} if self.chosen.tools else {}
        else:
            texts = (self.chosen.prompt, self.chosen.text, self.rejected.text)
            value = dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))
        return json.dumps(value, ensure_ascii=False)

    def words(self) -> str:
        """The prompt and the chosen answer."""
        return self.chosen.words()


def read(data: str | Path | Sequence[str | Path]) -> Examples[PreferencePair]:
    """Read pairs of preferences.

    Args:
        data: .jsonl files and folders of them.

    Raises:
        UsageError: A line is no pair, or its two answers are equal; names the line.
    """
    return gather(data, (".jsonl", *tables.SUFFIXES), _pair, FORMS)


def _pair(value: dict[str, Any], where: str) -> PreferencePair:
    if any(key in value for key in _OPENAI):
        value = _renamed(value, where)
    if "chosen" not in value or "rejected" not in value:
        raise UsageError(
            f"{where} is no pair: it has the keys {', '.join(value) or 'none'}",
            expected=FORMS,
            todo="for examples with one answer, leave --objective out",
        )
    if "prompt" not in value:
        value = _parted(value, where)
    prompt = value["prompt"]
    if isinstance(prompt, str):
        chosen, rejected = (_text(value, prompt, side, where) for side in ("chosen", "rejected"))
        same = chosen.text.strip() == rejected.text.strip()
    else:
        messages = [message_of(m, where, i) for i, m in enumerate(list_of(value, "prompt", where))]
        if messages[-1]["role"] == "assistant":
            raise UsageError(
                f"{where} has a prompt that ends with the assistant",
                expected="a prompt that ends with the user or a tool",
                todo="move its last message into both answers, or remove the line",
            )
        chosen, rejected = (_chat(value, messages, s, where) for s in ("chosen", "rejected"))
        same = _content(chosen) == _content(rejected)
    if same:
        raise UsageError(
            f"{where} has two answers that are equal",
            expected="a chosen answer and another",
            todo="remove the line: nothing can be preferred in it",
        )
    return PreferencePair(where=where, chosen=chosen, rejected=rejected)


def _renamed(value: dict[str, Any], where: str) -> dict[str, Any]:
    """A pair in OpenAI's words, in those of everyone else."""
    missing = [key for key in _OPENAI if key not in value]
    given = value.get("input")
    if missing or not isinstance(given, dict):
        what = f"no {missing[0]}" if missing else "an input that is no object"
        raise UsageError(f"{where} has {what}", expected=FORMS, todo=LINE_TODO)
    inside = cast(dict[str, Any], given)
    renamed = {
        "prompt": inside.get("messages"),
        "chosen": value["preferred_output"],
        "rejected": value["non_preferred_output"],
    }
    return renamed | ({"tools": inside["tools"]} if inside.get("tools") else {})


def _parted(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Two whole conversations: what they begin with is the prompt."""
    chosen, rejected = list_of(value, "chosen", where), list_of(value, "rejected", where)
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise UsageError(
            f"{where} has no prompt, and its conversations differ before their last message",
            expected=f"conversations with one beginning, or {FORMS}",
            todo=LINE_TODO,
        )
    last = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    return value | last


def _text(value: dict[str, Any], prompt: str, side: str, where: str) -> Example:
    answer = value[side]
    if not isinstance(answer, str):
        raise UsageError(
            f"{where} has a {side} that is no text, as the prompt is",
            expected=FORMS,
            todo=LINE_TODO,
        )
    if not prompt.strip() or not answer.strip():
        what = side if prompt.strip() else "prompt"
        raise UsageError(f"{where} has an empty {what}", todo="remove the line")
    return Example(where=where, prompt=prompt, text=answer)


def _chat(
    value: dict[str, Any], prompt: Sequence[Mapping[str, Any]], side: str, where: str
) -> Example:
    given = value[side]
    if isinstance(given, str):
        given = [{"role": "assistant", "content": given}]
    given = [given] if isinstance(given, dict) else list_of(value | {side: given}, side, where)
    if len(given) != 1:
        raise UsageError(
            f"{where} has a {side} of {len(given)} messages",
            expected="one of the assistant",
            todo=LINE_TODO,
        )
    answer = message_of(given[0], f"{where}, {side}", 0)
    if answer["role"] != "assistant":
        raise UsageError(
            f"{where} has a {side} of the role {answer['role']}",
            expected="one of the assistant",
            todo=LINE_TODO,
        )
    return Example(where=where, messages=[*prompt, answer], tools=tools_of(value, where))


def _content(example: Example) -> Any:
    """What two answers are compared by."""
    answer = example.messages[-1]
    content = answer.get("content")
    text = content.strip() if isinstance(content, str) else content
    return text, answer.get("tool_calls"), answer.get("reasoning_content")
