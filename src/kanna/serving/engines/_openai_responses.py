"""Generated text in the shapes of /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from kanna.serving.engines import tool_calls
from kanna.serving.engines._jobs import GeneratedToken
from kanna.serving.engines._text_codec import TextCodec


@dataclass(slots=True, kw_only=True)
class TextDelta:
    """Text that may be shown, with its tokens.

    Attributes:
        finish_reason: Why it is the last one; empty: it is not.
    """

    text: str = ""
    tokens: list[GeneratedToken] = field(default_factory=list[GeneratedToken])
    finish_reason: str = ""

    def extend(self, delta: TextDelta) -> None:
        """Append what came after it."""
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish_reason = delta.finish_reason


class CompletionFormat:
    """Choices as /v1/completions has them.

    Args:
        model: Public name of the model.
        codec: Of its text.
        logprobs: Whether tokens come with their log-probabilities.
    """

    response_object = chunk_object = "text_completion"
    id_prefix = "cmpl"

    def __init__(self, model: str, codec: TextCodec, *, logprobs: bool) -> None:
        self._model, self._codec, self._with_logprobs = model, codec, logprobs
        self._id, self._created = f"{self.id_prefix}-{uuid.uuid4().hex}", int(time.time())

    def response(self, whole: TextDelta, usage: dict[str, int]) -> dict[str, Any]:
        """The whole answer."""
        return self._fields(self.response_object) | {
            "choices": [self.choice(whole)],
            "usage": usage,
        }

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of a stream."""
        return self._fields(self.chunk_object) | {"choices": choices, **more}

    def _fields(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def logprobs(self, tokens: list[GeneratedToken]) -> dict[str, Any] | None:
        """The `logprobs` of a choice; None where they were not asked for."""
        if not self._with_logprobs:
            return None
        return {
            "content": [
                self._token(t.id, t.logprob)
                | {"top_logprobs": [self._token(i, logprob) for i, logprob in t.top]}
                for t in tokens
            ]
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._codec.token_text(token)
        data = list(self._codec.token_bytes(token))
        return {"id": token, "token": text, "bytes": data, "logprob": logprob}

    def first_choices(self) -> list[dict[str, Any]]:
        """Choices of the events before any text."""
        return []

    def choice(self, whole: TextDelta) -> dict[str, Any]:
        """The choice of a whole answer."""
        return {
            "index": 0,
            "text": whole.text,
            "logprobs": self.logprobs(whole.tokens),
            "finish_reason": whole.finish_reason,
        }

    def delta_choices(self, delta: TextDelta) -> list[dict[str, Any]]:
        """Choices of the events for the next piece of text."""
        return [self.choice(delta) | {"finish_reason": delta.finish_reason or None}]


class ChatFormat(CompletionFormat):
    """Choices as /v1/chat/completions has them.

    With tools, a stream waits for the end: only then it is known whether the text is a call.
    """

    response_object, chunk_object = "chat.completion", "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(self, model: str, codec: TextCodec, *, logprobs: bool, tools: bool) -> None:
        super().__init__(model, codec, logprobs=logprobs)
        self._tools, self._waiting = tools, TextDelta()

    def first_choices(self) -> list[dict[str, Any]]:
        """The event that names the role."""
        return [
            {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
        ]

    def choice(self, whole: TextDelta) -> dict[str, Any]:
        """The choice of a whole answer, with its tool calls."""
        message: dict[str, Any] = {"role": "assistant", "content": whole.text}
        finish_reason = whole.finish_reason
        if self._tools:
            calls, content = tool_calls.parse(whole.text)
            if calls:
                message |= {"content": content or None, "tool_calls": calls}
                finish_reason = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        return choice | ({"logprobs": self.logprobs(whole.tokens)} if self._with_logprobs else {})

    def delta_choices(self, delta: TextDelta) -> list[dict[str, Any]]:
        """Choices of the events for the next piece of text, and of the one that ends the stream."""
        if self._tools:
            self._waiting.extend(delta)
            if not delta.finish_reason:
                return []
            delta = self._waiting
        choice = self.choice(delta)
        fields = {
            k: v
            for k, v in choice.pop("message").items()
            if k != "role" and v is not None and v != ""
        }
        for i, call in enumerate(fields.get("tool_calls", ())):
            call["index"] = i
        finish_reason = choice.pop("finish_reason")
        choices: list[dict[str, Any]] = []
        if fields or not delta.finish_reason:
            choices.append(choice | {"delta": fields, "finish_reason": None})
        if delta.finish_reason:
            choices.append({"index": 0, "delta": {}, "finish_reason": finish_reason})
        return choices
