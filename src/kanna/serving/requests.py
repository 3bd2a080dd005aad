"""What a client may send, checked before any engine sees it.

Fields not named here go to the engine as they are.
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


class Generation(_Request):
    """What both ways to generate share."""

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
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class Function(_Open):
    """`parameters`: a JSON schema; without one, any object."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Open):
    type: Literal["function"]
    function: Function


class Named(_Open):
    name: str


class Choice(_Open):
    type: Literal["function"]
    function: Named


class Schema(_Open):
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class Format(_Open):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class Chat(Generation):
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | Choice | None = None
    response_format: Format | None = None

    @model_validator(mode="after")
    def _tools_that_are_there(self) -> Chat:
        names = [t.function.name for t in self.tools or ()]
        if isinstance(self.tool_choice, Choice) and self.tool_choice.function.name not in names:
            raise PydanticCustomError(
                "tool",
                "tool_choice names {name}, which is not among the tools",
                {"name": repr(self.tool_choice.function.name[:128])},
            )
        if self.tool_choice == "required" and not names:
            raise PydanticCustomError("tool", "tool_choice is required, and there are no tools")
        return self


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Completion(Generation):
    """`max_tokens` 0 scores an echoed prompt and generates nothing."""

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
    def _something_to_say(self) -> Completion:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError(
                "nothing", "max_tokens is 0 and nothing is echoed: there is nothing to answer"
            )
        return self


class Embeddings(_Request):
    input: str | list[str] | list[int] | list[list[int]]


class Tokenize(_Request):
    content: str


class Detokenize(_Request):
    tokens: list[int]


def settle(body: dict[str, Any]) -> None:
    """Say what a chat wants of its tools in a way that every engine understands.

    Any of them, or one at least.
    """
    choice = body.get("tool_choice")
    if isinstance(choice, dict):  # llama.cpp takes it for `auto`
        body["tools"] = [
            t for t in body["tools"] if t["function"]["name"] == choice["function"]["name"]
        ]
        body["tool_choice"] = "required"
    elif choice == "none" or not body.get("tools"):
        body.pop("tools", None)
        body.pop("tool_choice", None)


def check(kind: type[BaseModel], value: Any) -> None:
    """Raise ApiError 400 naming the first field that is wrong."""
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    try:
        kind.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Of a union, the place in it says how the value was read: that is ours, not the client's.
        where = ".".join(
            str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()
        )
        raise ApiError(
            400, f"{where}: {first['msg']}" if where else first["msg"], param=where or None
        ) from None
