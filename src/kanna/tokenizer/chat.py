"""Chat templates: Jinja2 text that a model carries, rendered in a sandbox as transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanna.chat_templates import pool

Message = Mapping[str, Any]

# Names under which a message carries what the model thought, the one in common use first.
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def render(
    template: str,
    messages: Sequence[Message],
    *,
    bos: str = "",
    eos: str = "",
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The text of a conversation.

    A process of its own renders it, under limits of time, memory, steps and output: a template is
    a stranger's program. It takes about a third of a millisecond more than without. The call blocks
    until then, so an event loop hands it to a thread.

    Args:
        template: Jinja2 text.
        messages: The conversation; keys whose value is None are left out, as transformers does.
        bos: Text of the token that begins a text; where there is none, a template finds the name
            undefined.
        eos: Text of the token that ends a text, likewise.
        add_generation_prompt: Whether the text ends where an answer begins.
        **variables: What else the template can name: tools, documents, options of the model.

    Raises:
        TemplateLimitError: The template takes more time, memory, steps or text than it may.
        MissingError: This machine has no memory or no time for it.
        FormatError: The template is broken or refuses the messages.
    """
    given = variables_of(
        messages, bos=bos, eos=eos, add_generation_prompt=add_generation_prompt, **variables
    )
    return pool.render(template, given)


def variables_of(
    messages: Sequence[Message],
    *,
    bos: str = "",
    eos: str = "",
    add_generation_prompt: bool = True,
    **variables: Any,
) -> dict[str, Any]:
    """What a template can name when it renders a conversation.

    Args:
        messages: As in `render`.
        bos: As in `render`.
        eos: As in `render`.
        add_generation_prompt: As in `render`.
        **variables: As in `render`.
    """
    special = {k: v for k, v in (("bos_token", bos), ("eos_token", eos)) if v}
    values = {"tools": None, "documents": None, **special, **variables}
    return values | {"messages": _plain(messages), "add_generation_prompt": add_generation_prompt}


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as a template of transformers sees them.

    Nothing is there that is None, and what a model thought has each of the names in use.
    """
    plain: list[dict[str, Any]] = []
    for message in messages:
        given = {k: v for k, v in message.items() if v is not None}
        thought = next((given[k] for k in _THOUGHTS if k in given), None)
        if thought is not None:
            given = {"thinking": thought, **given, "reasoning_content": thought}
        plain.append(given)
    return plain
