"""Tools of a chat, and the shape that its answer has to have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from kanna.serving.requests.fields import Open
from kanna.serving.requests.scalars import Switch, refusal


class Function(Open):
    """A function that a model may call.

    `parameters` is a JSON schema; without one any object is valid.
    """

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Switch = None


class Tool(Open):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(Open):
    """A function, by its name."""

    name: str


class NamedTool(Open):
    """The function that has to be called."""

    type: Literal["function"]
    function: FunctionName


def _to_choice(value: Any) -> Any:
    if value is None or isinstance(value, dict) or value in ("none", "auto", "required"):
        return value
    if value == "any":  # Mistral's word
        return "required"
    raise refusal("none, auto, required, or the name of a function as an object", value)


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | None, BeforeValidator(_to_choice)
]


class JsonSchema(Open):
    """The schema that an answer has to follow."""

    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: Switch = None


class ResponseFormat(BaseModel):
    """The shape that an answer has to have; `schema` beside the type is llama.cpp's way."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _one_shape(self) -> ResponseFormat:
        """Put the schema where every engine looks for it."""
        if self.type == "json_schema":
            wrapped = self.json_schema or JsonSchema.model_validate({})
            if wrapped.schema_ is None:
                wrapped.schema_ = self.schema_ or {}
            self.json_schema, self.schema_ = wrapped, None
        return self


def normalize_tool_choice(body: dict[str, Any]) -> None:
    """Express a chat's tool choice, in place, as every engine understands it.

    A function that is named becomes the only tool, with `required`: llama.cpp takes the name for
    `auto`. With `none` there are no tools.
    """
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        body["tools"] = [tool for tool in body["tools"] if tool["function"]["name"] == name]
        body["tool_choice"] = "required"
    elif choice == "none" or not body.get("tools"):
        body.pop("tools", None)
        body.pop("tool_choice", None)
