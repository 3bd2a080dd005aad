"""Chat templates: Jinja2 text that a model carries, rendered in a sandbox as transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from kanna.errors import FormatError

Message = Mapping[str, Any]

# Longer than any template in use; a hostile one is refused before it is parsed.
_MAX_TEMPLATE = 1 << 20
_MAX_TEXT = 1 << 24
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

    Args:
        template: Jinja2 text.
        messages: The conversation; keys whose value is None are left out, as transformers does.
        bos: Text of the token that begins a text; where there is none, a template finds the name
            undefined.
        eos: Text of the token that ends a text, likewise.
        add_generation_prompt: Whether the text ends where an answer begins.
        **variables: What else the template can name: tools, documents, options of the model.

    Raises:
        FormatError: The template is broken or refuses the messages.
    """
    import jinja2

    if len(template) > _MAX_TEMPLATE:
        raise FormatError(
            f"the chat template has {len(template)} characters", expected=f"at most {_MAX_TEMPLATE}"
        )
    try:
        pieces: list[str] = []
        size = 0
        special = {k: v for k, v in (("bos_token", bos), ("eos_token", eos)) if v}
        values = {"tools": None, "documents": None, **special, **variables}
        for piece in _compile(template).generate(
            values, messages=_plain(messages), add_generation_prompt=add_generation_prompt
        ):
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_TEXT:
                raise FormatError(f"the chat template writes more than {_MAX_TEXT} characters")
    except jinja2.TemplateError as error:
        raise FormatError(f"the chat template cannot be rendered: {error}") from error
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        RecursionError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise FormatError(f"the chat template fails: {type(error).__name__}: {error}") from error
    return "".join(pieces)


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


@cache
def _compile(template: str) -> Any:
    from kanna.tokenizer.chat_environment import environment  # jinja2 loads for templates alone

    return environment().from_string(template)
