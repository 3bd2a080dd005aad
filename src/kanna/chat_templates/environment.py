"""The sandbox that chat templates run in: Jinja2 with the additions of transformers."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 500_000
"""Turns of loops and calls of macros; what renders a conversation takes a few per message."""
# Characters that the result of `*` may have, and the largest exponent of `**`.
_MAX_RESULT, _MAX_EXPONENT = 1 << 20, 64


class StepLimitError(Exception):
    """A template has taken as many steps as it may."""


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

    def __init__(*args: Any, **kwargs: Any) -> None:
        # No parameter has a name, so that a template may call its attribute `self`.
        namespace, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(namespace, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace stores no {name!r}")


class PlainDict:
    """`dict(…)` and `dict.fromkeys(…)`, and nothing else that the type has."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A dictionary."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """A dictionary whose keys have one value."""
        return dict.fromkeys(*args)


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, with its steps counted.

    The two operators that make gigabytes of a few characters have limits of their own.

    Attributes:
        steps: Of the template that is rendered.
    """

    intercepted_binops = frozenset(["*", "**"])
    steps = 0

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator; raises TemplateError for one that is too large."""
        sizes = [len(v) for v in (left, right) if hasattr(v, "__len__")]
        counts = [v for v in (left, right) if isinstance(v, int)]
        if (sizes and max(counts, default=0) * sizes[0] > _MAX_RESULT) or (
            operator == "**" and max(map(abs, counts), default=0) > _MAX_EXPONENT
        ):
            raise jinja2.TemplateError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)

    def count_step(self) -> None:
        """Called at every turn of a loop and every call of a macro."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise StepLimitError

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Python of a parsed template, with a count at the beginning of every body that repeats."""
        for node in list(source.find_all((nodes.For, nodes.Macro))):
            count = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
            statement = nodes.ExprStmt(count)
            statement.set_lineno(node.lineno).set_environment(self)
            node.body.insert(0, statement)
        return super()._generate(source, *args, **kwargs)


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
        "dict": PlainDict(),
    }
    made.globals.update(additions)
    return made
