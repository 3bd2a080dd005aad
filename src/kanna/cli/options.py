"""Options that every command takes, before or after its name, and parameter types they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from kanna._util.interruption import ending_orderly
from kanna._util.units import parse_size
from kanna.cli import config, shells
from kanna.cli.settings import settings
from kanna.cli.ui import Terminal
from kanna.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and param.name:
        setattr(settings(ctx), param.name, True)


def common_options(function: F) -> F:
    """Add --json, --quiet and --debug."""
    for name, text in (
        ("--debug", "Show the traceback of an error (also: KANNA_DEBUG=1)."),
        ("--quiet", "No progress, no remarks: only the result."),
        ("--json", "Print the result as one JSON object."),
    ):
        envvar = "KANNA_DEBUG" if name == "--debug" else None
        function = click.option(
            name,
            is_flag=True,
            help=text,
            envvar=envvar,
            expose_value=False,
            callback=_set,
            is_eager=True,
        )(function)
    return function


def parts_on(what: str) -> Callable[[F], F]:
    """Add --on and --on-set, of a verb that runs in parts.

    Args:
        what: That is done there, such as "the parts are read".
    """

    def add(function: F) -> F:
        function = click.option(
            "--on-set",
            multiple=True,
            metavar="NAME=VALUE",
            help="Set an option of the executor, as YAML; can be repeated.",
        )(function)
        return click.option(
            "--on",
            metavar="EXECUTOR",
            help=f"Where {what}, such as ray. [default: here, one by one]",
        )(function)

    return add


class Command(click.Command):
    """A command with what is said when it is interrupted."""

    when_interrupted = "Interrupted."

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; an interruption is passed on with what is to be said of it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (self.when_interrupted,)
            raise


def tasks(what: str) -> Callable[[F], F]:
    """The option `--tasks`.

    Args:
        what: What is done with the tasks, without a full stop.
    """
    return click.option(
        "--tasks",
        type=NAMES,
        metavar="TASK,…",
        help=f"{what}: maths, tool-calls, json, turns, code, choice:FILE.jsonl, lm-eval:TASK.",
    )


def command(
    name: str, *, when_interrupted: str = "Interrupted.", handles_signals: bool = False
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; it gets a `Terminal` first, then its own options.

    Args:
        name: As people type it.
        when_interrupted: What Ctrl-C is answered with.
        handles_signals: Whether the function itself says what SIGTERM does, as a server's does.
    """

    def make(function: Callable[..., Any]) -> Command:
        @click.pass_context
        def run(ctx: click.Context, /, **values: Any) -> Any:
            config.drop_contradicted(ctx, values)
            ending = nullcontext() if handles_signals else ending_orderly()
            with ending, Terminal(settings(ctx)) as terminal:
                return function(terminal, **values)

        run.__doc__ = function.__doc__
        common_options(run)
        # Click lists parameters last one first: the common ones go to the end of the help.
        own = getattr(function, "__click_params__", [])
        run.__click_params__ += own  # pyright: ignore[reportFunctionMemberAccess]
        made = click.command(name, cls=Command)(run)
        made.when_interrupted = when_interrupted
        return made

    return make


class Size(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A size such as 2GB, 1.5GiB or 800MB, as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the size in bytes."""
        try:
            return parse_size(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Number(click.FloatRange):
    """A number, which infinity and NaN are not; within a range where one is given."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number to reckon with", param, ctx)
        return number

    def _describe_range(self) -> str:
        # click writes "x<=None" where a range has no bounds.
        return "" if self.min is None and self.max is None else super()._describe_range()


class Names(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A comma-separated list of names."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """Returns the names."""
        if isinstance(value, list):
            return value  # pyright: ignore[reportUnknownVariableType]
        names = [part.strip() for part in str(value).split(",") if part.strip()]
        if not names:
            self.fail("no name given", param, ctx)
        return names


class ModelReference(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A model or an artefact by any of its names; the verb reads it."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the reference as it was written."""
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Returns files, and the models on this machine."""
        return shells.models(incomplete)


FILE = click.Path(path_type=Path)
MODEL = ModelReference()
SIZE = Size()
NUMBER = Number()
POSITIVE = Number(0, min_open=True)
NAMES = Names()


class Share(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A share such as 5% or 0.05, as a fraction of 1."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Returns the fraction."""
        from kanna.evaluation.precision import parse

        try:
            return parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


precision = click.option(
    "--precision",
    type=Share(),
    help=(
        "Stop reading where the KL divergence is known to within this share, such as 5%. "
        "[default: 5%, unless --windows fixes how much is read]"
    ),
)
threads = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads to use. [default: every core; models run on those that are free]",
)
held_out = click.option(
    "--data",
    type=FILE,
    multiple=True,
    help="Held-out examples to measure that by. [default: those that `kanna adapt` left]",
)
retention = click.option(
    "--retention",
    type=NUMBER,
    default=0.9,
    show_default=True,
    help="Least share of the gain that must be kept.",
)
task_examples = click.option(
    "--examples",
    type=click.IntRange(1),
    help="Questions of each task at most. [default: 24 to 50, and all of a file]",
)
revision = click.option("--revision", help="Branch, tag or commit of a hub id.")
yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
offline = click.option("--offline", is_flag=True, help="Use only what is on this machine already.")
provider = click.option(
    "--provider",
    metavar="NAME",
    shell_complete=shells.providers,
    help="An execution provider of onnxruntime, for ONNX folders: cpu, cuda, dml, webgpu, qnn, "
    "openvino, coreml, xnnpack, vitisai.",
)
static = click.option(
    "--static",
    metavar="CHUNKxCONTEXT",
    help="ONNX graphs of fixed shapes, as NPUs need them: one that reads so many tokens of a "
    "prompt, one that reads a token, and a cache of so many positions, such as 64x2048.",
)
target = click.option(
    "--target",
    metavar="NAME[:BACKEND]",
    shell_complete=shells.targets,
    help="A device it is for, such as raspberry-pi-5 (`kanna targets` lists them).",
)


def tracking(function: F) -> F:
    """Add --track, --experiment and --track-weights."""
    for name, keywords in (
        (
            "--track-weights",
            {"is_flag": True, "help": "Send weights there, too, not only hash and path."},
        ),
        ("--experiment", {"help": "Where the run belongs there. [default: kanna]"}),
        (
            "--track",
            {
                "metavar": "SERVER",
                "help": "Tell MLflow (http://HOST:PORT, sqlite:///FILE) or trackio of the run.",
            },
        ),
    ):
        function = click.option(name, **keywords)(function)  # pyright: ignore[reportArgumentType]
    return function
