"""Chat templates: Jinja2 text that a model carries, rendered in a sandbox as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from kanna.errors import FormatError

Message = Mapping[str, Any]

# Longer than any template in use; a hostile one is refused before it is parsed.
_MAX_TEMPLATE = 1 << 20
_MAX_TEXT = 1 << 24


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

    Raises FormatError when the template is broken or refuses the messages.
    """
    import jinja2

    if len(template) > _MAX_TEMPLATE:
        raise FormatError(
            f"the chat template has {len(template)} characters", expected=f"at most {_MAX_TEMPLATE}"
        )
    try:
        pieces: list[str] = []
        size = 0
        for piece in _compile(template).generate(
            messages=list(messages),
            bos_token=bos,
            eos_token=eos,
            add_generation_prompt=add_generation_prompt,
            **variables,
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


@cache
def _compile(template: str) -> Any:
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):
        """`{% generation %}` marks what the assistant wrote, for training.

        Here it changes nothing.
        """

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(ImmutableSandboxedEnvironment):
        """The sandbox, with limits on the two operators that make gigabytes of a few characters."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [len(v) for v in (left, right) if hasattr(v, "__len__")]
            counts = [v for v in (left, right) if isinstance(v, int)]
            if (sizes and max(counts, default=0) * sizes[0] > _MAX_TEMPLATE) or (
                operator == "**" and max(map(abs, counts), default=0) > 64
            ):
                raise jinja2.TemplateError(f"the result of {operator} is too large")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = tojson
    functions: dict[str, Any] = {"raise_exception": raise_exception, "strftime_now": strftime_now}
    environment.globals.update(functions)
    return environment.from_string(template)
