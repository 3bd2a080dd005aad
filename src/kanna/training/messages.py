"""Messages of a chat as people write them, in the words of OpenAI or of ShareGPT; each checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from kanna.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool")
_SHARE_GPT = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Roles of ShareGPT and of trainers that took it over; others have OpenAI's names."""
_CALL = "function_call"
"""The role of an answer that calls tools, there."""
FORMS = (
    '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}, '
    '{"prompt": …, "completion": …} or {"text": …}'
)
LINE_TODO = "bring the line into this form, or remove it"


def list_of(value: dict[str, Any], key: str, where: str) -> list[Any]:
    """The list under a key; UsageError for anything else, and for an empty one."""
    items = value[key]
    if not isinstance(items, list) or not items:
        raise UsageError(
            f"{where} has {key} that are no list of objects", expected=FORMS, todo=LINE_TODO
        )
    return items


def tools_of(value: dict[str, Any], where: str) -> list[Any]:
    """The tools of a line, a list or the JSON text of one, as tables hold it; [] without any."""
    given = value.get("tools")
    if isinstance(given, str):
        given = parsed(given) if given.strip() else None
    return list_of({"tools": given}, "tools", where) if given else []


def parsed(text: str) -> Any:
    """What a JSON text says; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def share_gpt(value: dict[str, Any], where: str) -> dict[str, Any]:
    """A line of ShareGPT in OpenAI's words."""
    messages = [
        _renamed(message, f"{where}, message {index + 1}")
        for index, message in enumerate(list_of(value, "conversations", where))
    ]
    system = value.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, {"role": "system", "content": system})
    return {**value, "messages": messages}


def _renamed(message: Any, place: str) -> Any:
    """A message of ShareGPT in OpenAI's words; UsageError for a call that is none."""
    if not isinstance(message, dict) or "from" not in message:
        return message
    given = cast(dict[str, Any], message)
    role, text = str(given["from"]), given.get("value")
    if role != _CALL:
        return {"role": _SHARE_GPT.get(role, role), "content": text}
    made = parsed(text) if isinstance(text, str) else text
    calls = made if isinstance(made, list) else [made]
    if not calls or not all(isinstance(one, dict) and "name" in one for one in calls):
        raise UsageError(
            f"{place} is a {_CALL} that is no call",
            expected='{"name": …, "arguments": {…}}, or a list of such',
            todo=LINE_TODO,
        )
    functions = [{"type": "function", "function": one} for one in calls]
    return {"role": "assistant", "tool_calls": functions}


def message_of(message: Any, where: str, index: int) -> dict[str, Any]:
    """A message of OpenAI's form; UsageError, which names the place, for anything else."""
    place = f"{where}, message {index + 1}"
    if not isinstance(message, dict):
        raise UsageError(f"{place} is no object", expected=FORMS, todo=LINE_TODO)
    given = cast(dict[str, Any], message)
    if given.get("role") not in ROLES:
        raise UsageError(
            f"{place} has the role {given.get('role')!r:.60}",
            expected=", ".join(ROLES),
            todo="rename the role, or leave the message out",
        )
    content = given.get("content")
    calls = given.get("tool_calls") or given.get("reasoning_content")
    if not isinstance(content, str) and not (content is None and calls):
        raise UsageError(f"{place} has no content that is a text", expected=FORMS, todo=LINE_TODO)
    if given["role"] == "assistant" and not calls and not str(content).strip():
        raise UsageError(f"{place} is an empty answer", todo="remove it")
    return _with_objects(given, place)


def _with_objects(message: dict[str, Any], place: str) -> dict[str, Any]:
    """A message whose calls have their arguments as objects, as most templates write them.

    OpenAI's are JSON texts, which such a template would write as a text in quotes.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return message | {"tool_calls": [_with_object(one, place) for one in cast(list[Any], calls)]}


def _with_object(call: Any, place: str) -> Any:
    given = cast(dict[str, Any], call) if isinstance(call, dict) else {}
    function = given.get("function")
    if not isinstance(function, dict):
        return call
    arguments = cast(dict[str, Any], function).get("arguments")
    if not isinstance(arguments, str):
        return call
    made = parsed(arguments or "{}")
    if not isinstance(made, dict):
        raise UsageError(
            f"{place} has a call whose arguments are no JSON object: {arguments!r:.60}",
            expected='arguments such as {"city": "Ulm"}, or their JSON text',
            todo=LINE_TODO,
        )
    return given | {"function": cast(dict[str, Any], function) | {"arguments": made}}


def with_texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as JSON texts, as some templates want them.

    Args:
        message: As `message_of` gives it.
    """
    made: list[Any] = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), dict):
            text = json.dumps(function["arguments"], ensure_ascii=False)
            call = {**call, "function": {**function, "arguments": text}}
        made.append(call)
    return dict(message) | ({"tool_calls": made} if made else {})
