"""The sandbox that chat templates run in: Jinja2 with the additions of transformers."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Characters that the result of `*` may have, and the largest exponent of `**`.
_MAX_RESULT, _MAX_EXPONENT = 1 << 20, 64


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training.

    Here it changes nothing, but that its body is a scope of its own.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        """The node of the tag and its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("body_of"), [], [], body).set_lineno(line)

    def body_of(self, caller: Any) -> Any:
        """The text of the body."""
        return caller()


class PublicNamespace(jinja2.utils.Namespace):
    """`namespace(…)` without private attributes."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.TemplateError(f"a namespace stores no {name!r}")
        super().__setitem__(name, value)


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with limits on the two operators that make gigabytes of a few characters."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator; raises TemplateError for one that is too large."""
        sizes = [len(v) for v in (left, right) if hasattr(v, "__len__")]
        counts = [v for v in (left, right) if isinstance(v, int)]
        if (sizes and max(counts, default=0) * sizes[0] > _MAX_RESULT) or (
            operator == "**" and max(map(abs, counts), default=0) > _MAX_EXPONENT
        ):
            raise jinja2.TemplateError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@cache
def environment() -> Sandbox:
    """The environment that compiles templates."""
    made = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    made.filters["tojson"] = _tojson
    additions: dict[str, Any] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": PublicNamespace,
    }
    made.globals.update(additions)
    return made
