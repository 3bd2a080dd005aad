"""Bodies of the routes that generate text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, model_validator

from kanna.serving.requests.fields import Request
from kanna.serving.requests.messages import Message
from kanna.serving.requests.pictures import MOST
from kanna.serving.requests.scalars import (
    MAX_INTEGER,
    Breakers,
    Count,
    Integer,
    LogitBias,
    Number,
    Seed,
    Stop,
    Switch,
    TokenLimit,
    TokenLimitOrZero,
    TopK,
    Window,
    to_integer,
    to_switch,
    wrong,
)
from kanna.serving.requests.texts import Prompt
from kanna.serving.requests.tools import ResponseFormat, Tool, ToolChoice

TOKEN_LIMITS = (
    "max_completion_tokens",
    "max_tokens",
    "n_predict",
    "max_new_tokens",
    "num_predict",
    "max_tokens_to_sample",
    "max_output_tokens",
)
"""Fields that say how many new tokens an answer may have, the one that counts first.

OpenAI's, llama.cpp's, transformers', Ollama's, Anthropic's and those of OpenAI's responses.
"""

_OWN_VARIABLES = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    include_usage: Switch = None


class RequestedAdapter(BaseModel):
    """The scale of a LoRA adapter for one request; 1 is as it was trained."""

    id: Count | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    scale: Annotated[Number, Field(ge=-10, le=10)] = 1.0


def _to_template_variables(value: Any) -> Any:
    """Variables for a chat template, but for those that the request has elsewhere."""
    if not isinstance(value, dict):
        return value
    variables = {k: v for k, v in value.items() if k not in _OWN_VARIABLES}
    if isinstance(variables.get("enable_thinking"), str):
        variables["enable_thinking"] = to_switch(variables["enable_thinking"])
    return variables


class LlamaOptions(Request):
    """Options of llama.cpp's that a request may set, each with llama.cpp's name.

    Engines in Python have the first ones, and refuse the others unless they change nothing.
    """

    top_k: TopK = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=100)] | None = Field(
        None, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    ignore_eos: Switch = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, BeforeValidator(_to_template_variables)
    ] = None
    cache_prompt: Switch = None
    timings_per_token: Switch = None
    n_predict: TokenLimit = None
    max_new_tokens: TokenLimit = None
    num_predict: TokenLimit = None
    max_tokens_to_sample: TokenLimit = None
    max_output_tokens: TokenLimit = None
    repeat_last_n: Window = None
    typical_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_n_sigma: Annotated[Number, Field(ge=-1, le=1000)] | None = None
    xtc_probability: Annotated[Number, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[Number, Field(ge=0, le=1)] | None = None
    dynatemp_range: Annotated[Number, Field(ge=0, le=10)] | None = None
    dynatemp_exponent: Annotated[Number, Field(ge=0, le=10)] | None = None
    dry_multiplier: Annotated[Number, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[Number, Field(ge=0, le=100)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Window = None
    dry_sequence_breakers: Breakers = None
    mirostat: Annotated[Integer, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[Number, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[Number, Field(ge=0, le=10)] | None = None
    adaptive_target: Annotated[Number, Field(ge=-1, le=1)] | None = None
    adaptive_decay: Annotated[Number, Field(ge=0, le=0.99)] | None = None
    min_keep: Count | None = None
    samplers: Annotated[list[str], Field(max_length=64)] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    lora: Annotated[list[RequestedAdapter], Field(max_length=64)] | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None
    reasoning_budget_tokens: Annotated[Integer, Field(ge=-1, le=MAX_INTEGER)] | None = None


class GenerationParameters(LlamaOptions):
    """What chats and completions share."""

    max_tokens: TokenLimit = None
    max_completion_tokens: TokenLimit = None
    temperature: Annotated[Number, Field(ge=0, le=10)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    seed: Seed = None
    stop: Stop = None
    stream: Switch = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=16)] | None = None
    best_of: Annotated[Integer, Field(ge=1, le=16)] | None = None
    logit_bias: LogitBias = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: Switch = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _check_together(self) -> GenerationParameters:
        shaped = self.response_format is not None and self.response_format.type != "text"
        if self.grammar and (shaped or self.json_schema is not None):
            raise wrong("it does not go together with a JSON schema", "grammar")
        if self.best_of not in {None, 1, self.n}:
            raise wrong(f"{self.best_of}: answers are not ranked here, so 1 or n", "best_of")
        self.best_of = None
        return self

    def normalized(self) -> dict[str, Any]:
        """The body as engines get it, without the fields that change no answer."""
        body = super().normalized()
        for field in ("user", "metadata", "store", "service_tier"):
            body.pop(field, None)
        return body


def _refuse_functions(value: Any) -> Any:
    if value in (None, []):
        return None
    raise wrong("it is older than tools, which take its place: send those")


def _refuse_audio(value: Any) -> Any:
    if value is None:
        return None
    raise wrong("models here write text alone")


def _count_pictures(message: Message) -> int:
    parts = message.content if isinstance(message.content, list) else ()
    return sum(part["type"] == "image_url" for part in parts)


class Chat(GenerationParameters):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: ToolChoice = None
    parallel_tool_calls: Switch = None
    logprobs: Switch = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    functions: Annotated[None, BeforeValidator(_refuse_functions)] = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: Annotated[None, BeforeValidator(_refuse_audio)] = None
    reasoning_effort: str | None = None

    @model_validator(mode="after")
    def _check_tool_choice(self) -> Chat:
        names = [tool.function.name for tool in self.tools or ()]
        choice = self.tool_choice
        if isinstance(choice, BaseModel) and choice.function.name not in names:
            name = repr(choice.function.name[:128])
            raise wrong(f"it names {name}, which is not among the tools", "tool_choice")
        if choice == "required" and not names:
            raise wrong("it is required, and there are no tools", "tool_choice")
        if sum(_count_pictures(message) for message in self.messages) > MOST:
            raise wrong(f"more than {MOST} pictures", "messages")
        if self.top_logprobs and not self.logprobs:
            raise wrong("it needs logprobs to be true", "top_logprobs")
        return self

    def normalized(self) -> dict[str, Any]:
        """The body as engines get it."""
        body = super().normalized()
        for field in ("functions", "function_call", "modalities"):
            body.pop(field, None)
        for message in body["messages"]:
            message.setdefault("content", None)  # of a message that is calls alone
        if not body.get("tools"):
            body.pop("parallel_tool_calls", None)
        return body


def _to_top(value: Any) -> Any:
    """How many tokens to name; false and true are what chats have there."""
    if isinstance(value, bool):
        return 1 if to_switch(value) else None
    return to_integer(value)


def _refuse_suffix(value: Any) -> Any:
    if value in (None, ""):
        return None
    raise wrong("texts are continued at their end alone: leave it out")


_OF_CHATS = ("messages", "tools", "tool_choice", "parallel_tool_calls")
"""What a completion has no place for, as with OpenAI."""


class Completion(GenerationParameters):
    """The body of /v1/completions.

    `max_tokens` 0 scores an echoed prompt and generates nothing.
    """

    prompt: Prompt
    max_tokens: TokenLimitOrZero = None
    echo: Switch = None
    logprobs: Annotated[Annotated[int, Field(ge=0, le=20)] | None, BeforeValidator(_to_top)] = None
    suffix: Annotated[None, BeforeValidator(_refuse_suffix)] = None

    def normalized(self) -> dict[str, Any]:
        """The body as engines get it: llama.cpp reads a schema here, and no response_format."""
        body = super().normalized()
        for field in _OF_CHATS:
            body.pop(field, None)
        shape = body.pop("response_format", None) or {}
        if shape.get("type") == "json_schema":
            body["json_schema"] = shape["json_schema"]["schema"]
        elif shape.get("type") == "json_object":
            body["json_schema"] = shape.get("schema") or {"type": "object"}
        return body

    @model_validator(mode="after")
    def _check_not_empty(self) -> Completion:
        if self.max_tokens == 0 and not self.echo:
            raise wrong("it is 0 and nothing is echoed: there is nothing to answer", "max_tokens")
        return self
