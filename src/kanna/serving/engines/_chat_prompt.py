"""A chat as one prompt, by the model's template.

Templates differ in what they take: some want the arguments of a past tool call as an object and
some as text, some refuse a system message or two messages of one role after each other, and some
leave a role out that they do not know without a word. So a chat is rendered as the client sent it
where the template takes it whole, and in the nearest shape that it takes otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from kanna.errors import FormatError, TemplateLimitError

Messages = list[dict[str, Any]]
Render = Callable[[Messages], str]


def render_chat(render: Render, messages: Messages, *, has_developer: bool) -> str:
    """The prompt of a chat, in the first shape that holds every message of it.

    Args:
        render: Fills the template; raises FormatError where it refuses.
        messages: As the gateway checked them.
        has_developer: Whether the template knows the role `developer`; where it does not, that is
            the system message of newer clients.

    Raises:
        TemplateLimitError: The template takes more time or memory than it may.
        FormatError: The template refuses the messages in every shape.
    """
    if not has_developer:
        messages = _without_developer(messages)
    refusal: FormatError | None = None
    best, most = "", -1
    for shape in _shapes(messages):
        try:
            prompt = render(shape)
        except TemplateLimitError:  # other shapes would take as long
            raise
        except FormatError as error:
            refusal = refusal or error
            continue
        held = _count_held(prompt, messages)
        if held > most:
            best, most = prompt, held
        if held == len(messages):
            break
    if most < 0:
        assert refusal
        raise refusal
    return best


def _shapes(messages: Messages) -> Iterator[Messages]:
    """The chat as it is, and then in shapes that more templates take, the nearest first."""
    as_objects = [_with_objects(message) for message in messages]
    yield as_objects
    if any(message.get("tool_calls") for message in messages):
        yield messages
    merged = _merged(_without_developer(as_objects))
    if merged != as_objects:
        yield merged
    if any(message["role"] == "system" for message in merged):
        yield _merged([m | {"role": "user"} if m["role"] == "system" else m for m in merged])


def _without_developer(messages: Messages) -> Messages:
    return [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls have their arguments as objects, as transformers wants them."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return message | {"tool_calls": [_call_with_object(call) for call in calls]}


def _call_with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    return call | {"function": function | {"arguments": arguments}}


def _merged(messages: Messages) -> Messages:
    """System messages in front as one, and messages of one role after each other as one."""
    ordered = sorted(messages, key=lambda message: message["role"] != "system")
    merged: Messages = []
    for message in ordered:
        last = merged[-1] if merged else None
        if last and last["role"] == message["role"] and _only_text(last) and _only_text(message):
            texts = [text for text in (last["content"], message["content"]) if text]
            merged[-1] = last | {"content": "\n\n".join(texts)}
        else:
            merged.append(message)
    return merged


def _only_text(message: dict[str, Any]) -> bool:
    return isinstance(message.get("content"), str) and set(message) <= {"role", "content", "name"}


def _count_held(prompt: str, messages: Messages) -> int:
    """How many messages are in the prompt.

    What the model wrote counts in any case: templates leave its earlier thoughts out.
    """
    return sum(
        message["role"] == "assistant" or _first_line(message) in prompt for message in messages
    )


def _first_line(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content.strip().partition("\n")[0].strip() if isinstance(content, str) else ""
