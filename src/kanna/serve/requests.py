"""What a client may send, checked before any engine sees it. Fields not named here go to the engine as they are."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kanna.serve.problems import ApiError

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
    n: Literal[1] | None = None
    logit_bias: dict[str, float] | None = None


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class Chat(Generation):
    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(None, ge=1)


class Completion(Generation):
    prompt: str | list[int]
    echo: Literal[False] | None = None


class Embeddings(_Request):
    input: str | list[str] | list[int] | list[list[int]]


class Tokenize(_Request):
    content: str


class Detokenize(_Request):
    tokens: list[int]


def check(kind: type[BaseModel], value: Any) -> None:
    """Raise ApiError 400 naming the first field that is wrong."""
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    try:
        kind.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in {"str", "list[str]", "list[int]"})
        raise ApiError(400, f"{where}: {first['msg']}", param=where or None) from None
