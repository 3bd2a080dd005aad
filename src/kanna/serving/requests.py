"""What a client may send, checked before any engine sees it.

Fields that are not named here go to the engine as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from kanna.serving.problems import ApiError

Stop = str | list[str] | None


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=500)


class GenerationParameters(_Request):
    """What chats and completions share."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(None, ge=1, le=16)
    best_of: Literal[1] | None = None
    logit_bias: dict[str, float] | None = None


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Message(_Open):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class Function(_Open):
    """A function that a model may call.

    `parameters` is a JSON schema; without one any object is valid.
    """

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Open):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(_Open):
    """A function, by its name."""

    name: str


class ToolChoice(_Open):
    """The function that has to be called."""

    type: Literal["function"]
    function: FunctionName


class JsonSchema(_Open):
    """The schema that an answer has to follow."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(_Open):
    """The shape that an answer has to have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Chat(GenerationParameters):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_tool_choice(self) -> Chat:
        names = [tool.function.name for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, ToolChoice) and choice.function.name not in names:
            raise PydanticCustomError(
                "tool",
                "tool_choice names {name}, which is not among the tools",
                {"name": repr(choice.function.name[:128])},
            )
        if choice == "required" and not names:
            raise PydanticCustomError("tool", "tool_choice is required, and there are no tools")
        return self


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Completion(GenerationParameters):
    """The body of /v1/completions.

    `max_tokens` 0 scores an echoed prompt and generates nothing.
    """

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Ids], Field(min_length=1)]
    )
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _check_not_empty(self) -> Completion:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError(
                "nothing", "max_tokens is 0 and nothing is echoed: there is nothing to answer"
            )
        return self


class Embeddings(_Request):
    """The body of /v1/embeddings."""

    input: str | list[str] | list[int] | list[list[int]]


class Tokenize(_Request):
    """The body of /tokenize."""

    content: str


class Detokenize(_Request):
    """The body of /detokenize."""

    tokens: list[int]


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


def check(kind: type[BaseModel], value: Any) -> None:
    """Raise ApiError 400 naming the first field of `value` that is not as `kind` has it."""
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    try:
        kind.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Of a union, the place in it says how the value was read: that is ours, not the client's.
        field = ".".join(
            str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()
        )
        raise ApiError(
            400, f"{field}: {first['msg']}" if field else first["msg"], param=field or None
        ) from None
