"""What all requests share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_INTERNAL = frozenset(
    [
        "add_generation_prompt",
        "backend_sampling",
        "chat_format",
        "chat_parser",
        "continue_final_message",
        "generation_prompt",
        "grammar_lazy",
        "grammar_triggers",
        "grammar_type",
        "id_slot",
        "input_extra",
        "input_prefix",
        "input_suffix",
        "message_delimiters",
        "n_cache_reuse",
        "n_cmpl",
        "n_discard",
        "n_indent",
        "n_keep",
        "n_probs",
        "parse_tool_calls",
        "post_sampling_probs",
        "preserved_tokens",
        "reasoning_budget_end_tag",
        "reasoning_budget_end_tags",
        "reasoning_budget_message",
        "reasoning_budget_start_tag",
        "reasoning_control",
        "response_fields",
        "return_progress",
        "return_tokens",
        "sse_ping_interval",
        "t_max_predict_ms",
        "t_max_prompt_ms",
    ]
)
"""Fields that llama.cpp's server reads and no request may set.

They choose a slot, change the shape of answers, or belong to the parser of its chat templates.
"""


class Open(BaseModel):
    """A part of a request whose unknown fields stay as they are."""

    model_config = ConfigDict(extra="allow")


class Request(Open):
    """The body of a request."""

    model: str = Field(min_length=1, max_length=500)

    def normalized(self) -> dict[str, Any]:
        """The body as engines get it: checked, coerced, without what is null."""
        body = self.model_dump(exclude_none=True, by_alias=True)
        return {
            name: value
            for name, value in body.items()
            if name not in _INTERNAL and not name.startswith("speculative.")
        }
