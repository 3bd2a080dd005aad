"""A request to a model, from the moment it is admitted until it is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from kanna.serving import relay
from kanna.serving.disconnect import ClientConnection
from kanna.serving.guard.keys import ApiKey
from kanna.serving.problems import ApiError
from kanna.serving.relay import TokenUsage
from kanna.serving.served_model import ServedModel

_LONGEST_TOKEN = 128
"""Characters of a token; longer ones are there for rows of spaces and dashes."""

_PICTURE_TOKENS = 1024
"""About what a picture becomes, until its engine has counted."""


@dataclass(slots=True, kw_only=True)
class ModelCall:
    """A request that was admitted and checked.

    Attributes:
        key: Whose it is.
        model: Who answers.
        path: Of the route, at the engine too.
        body: Of the request.
        request: As it came.
        client: Who waits for the answer.
        started: When it came, by the performance counter.
        usage: Gets the tokens that it took.
    """

    key: ApiKey
    model: ServedModel
    path: str
    body: dict[str, Any]
    request: Request
    client: ClientConnection
    started: float
    usage: TokenUsage = field(default_factory=TokenUsage)

    @property
    def is_chat(self) -> bool:
        """A chat, not a completion."""
        return self.path == relay.CHAT

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def prompts(self) -> list[Any]:
        """Every prompt of a completion; a chat has one, which is None."""
        prompt = self.body.get("prompt")
        if isinstance(prompt, list) and not isinstance(prompt[0], int):
            return prompt
        return [prompt]

    def most_tokens(self, context: int) -> int:
        """About the most tokens that it can use: its texts, and what is generated.

        Args:
            context: Tokens that one choice can have.
        """
        body = self.body
        given = body.get("messages") or body.get("prompt") or body.get("input")
        given = given or [body.get("query", ""), *body.get("documents", ())]
        read = _about_tokens(given or body.get("content") or body.get("tokens"))
        if "messages" not in body and "prompt" not in body:
            return read  # nothing is generated
        choices = len(self.prompts) * (body.get("n") or 1)
        return choices * min(context, read + (body.get("max_tokens") or context))


def check_length(body: dict[str, Any], context: int) -> None:
    """Refuse a text that no context holds, before anybody reads it.

    Args:
        body: Of a request.
        context: Tokens that one choice can have.

    Raises:
        ApiError: 400: a prompt, or the messages together, have too many characters.
    """
    given = body.get("messages") or body.get("input") or body.get("prompt")
    given = given or body.get("documents") or ""
    texts = given if isinstance(given, list) and "messages" not in body else [given]
    longest = max(map(_about_tokens, texts), default=0)
    if longest > context * _LONGEST_TOKEN // 2:
        raise ApiError(
            400,
            f"a text of about {2 * longest} characters does not fit the context of {context} "
            "tokens",
            code="context_length_exceeded",
        )


def _about_tokens(value: Any) -> int:
    """Tokens of texts and ids; half of the characters are more than most texts have."""
    if isinstance(value, str):
        return len(value) // 2 + 1
    if isinstance(value, dict) and value.get("type") == "image_url":
        return _PICTURE_TOKENS
    if isinstance(value, dict):
        return 8 + sum(map(_about_tokens, value.values()))
    if isinstance(value, list):
        return len(value) if value and isinstance(value[0], int) else sum(map(_about_tokens, value))
    return 0
