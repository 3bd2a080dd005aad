"""Messages of a chat: one text each, whatever a client sends, or texts and pictures."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kanna.serving.requests import pictures
from kanna.serving.requests.fields import Open
from kanna.serving.requests.scalars import refusal, show, wrong

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The field that has the text of a part, by the part's type."""


def _to_content(value: Any) -> Any:
    """The content of a message as one text, or as parts where pictures are among them.

    Raises PydanticCustomError.
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refusal("a text or a list of parts", value)
    if any(isinstance(part, dict) and part.get("type") in pictures.TYPES for part in value):
        return [_to_part(part, f"part {number}") for number, part in enumerate(value)]
    # llama.cpp puts a line break between parts as well.
    return "\n".join(_text_of(part, f"part {number}") for number, part in enumerate(value))


def _to_part(part: Any, place: str) -> dict[str, Any]:
    """A text or a picture of a message that has pictures."""
    if isinstance(part, dict) and part.get("type") in pictures.TYPES:
        return pictures.to_part(part, place)
    return {"type": "text", "text": _text_of(part, place)}


def _text_of(part: Any, place: str) -> str:
    if not isinstance(part, dict):
        raise refusal(f'{place}: an object such as {{"type": "text", "text": …}}', part)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise wrong(
            f"{place} is of type {show(kind)}, and models here read text and pictures (image_url)"
        )
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise refusal(f"{place}: a text", text)
    return text


Content = Annotated[str | list[dict[str, Any]] | None, BeforeValidator(_to_content)]
Name = Annotated[str, Field(max_length=256)]


def _to_arguments(value: Any) -> Any:
    """Arguments of a past call as the JSON of an object; raises PydanticCustomError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            return value
    raise refusal("the JSON of an object", value)


class CalledFunction(Open):
    """The function of a past call, and what it was called with."""

    name: str = Field(min_length=1, max_length=256)
    arguments: Annotated[str, BeforeValidator(_to_arguments)] = "{}"


class ToolCall(Open):
    """A call that the model made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


def _with_types(value: Any) -> Any:
    """A list of calls whose type is there: some clients leave it out, or send null."""
    if not isinstance(value, list):
        return value
    return [
        {k: v for k, v in call.items() if not (k == "type" and v is None)}
        if isinstance(call, dict)
        else call
        for call in value
    ]


class Message(Open):
    """One message of a chat.

    The older `function_call` and the role `function` become a tool call and its answer.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    name: Name | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[
        Annotated[list[ToolCall], Field(max_length=1000)] | None, BeforeValidator(_with_types)
    ] = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Message:
        if self.function_call is not None:
            call = ToolCall(id=f"call_{self.function_call.name}", function=self.function_call)
            self.tool_calls, self.function_call = [*(self.tool_calls or ()), call], None
        if self.role == "function":
            self.role = "tool"
            self.tool_call_id = self.tool_call_id or f"call_{self.name or ''}"
        if self.role != "assistant" or not self.tool_calls:
            self.tool_calls = None
        if self.content is None:
            if self.role not in {"assistant", "tool"}:
                raise wrong(f"a message of the role {self.role} has no content")
            self.content = None if self.tool_calls else ""
        return self
