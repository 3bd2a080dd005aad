"""`kanna promote MODEL`: a name in a model registry, once all conditions hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command
from kanna.closeness import GRADES

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("promote")
@click.argument("artefact", metavar="MODEL", type=options.MODEL)
@click.option(
    "--track",
    metavar="SERVER",
    required=True,
    help="An MLflow server: http://HOST:PORT or sqlite:///FILE.",
)
@click.option("--name", required=True, help="Of the model in the registry.")
@click.option(
    "--to",
    type=click.Choice(["candidate", "production"]),
    default="candidate",
    show_default=True,
    help="What it is called there; production only what was candidate.",
)
@click.option(
    "--at-least",
    type=click.Choice([grade.name for grade in GRADES]),
    default="close",
    show_default=True,
    help="The least grade of closeness to its source.",
)
@click.option(
    "--reference",
    type=options.MODEL,
    help="What it is compared with. [default: the source that the gate report names]",
)
@click.option(
    "--gate",
    type=options.FILE,
    help="The report that `kanna verify --gate` wrote. [default: MODEL.gate.json]",
)
@click.option(
    "--allow", type=options.NAMES, help="Licences that are allowed: apache-2.0,mit. [default: any]"
)
@click.option("--key", type=options.FILE, help="Public key of who must have signed the package.")
@click.option(
    "--text",
    type=options.FILE,
    help="Text to measure closeness on. [default: the WikiText-2 test set]",
)
@click.option(
    "--windows",
    type=click.IntRange(1),
    help="Windows of 512 tokens to measure. [default: as for evaluate]",
)
@click.option(
    "--track-weights", is_flag=True, help="Send the weights, too: the server keeps the model."
)
@options.threads
@options.offline
def promote_command(terminal: Terminal, artefact: str, **choices: Any) -> None:
    """Make MODEL candidate or production of a model registry.

    Held to its gate report, what it says of itself, its licence, its signature, and how close it is
    to its source, measured now. Nothing is registered where one is missing.

    Exit code 0: it has the name. 1: it was refused, and is told what is missing.
    """
    from kanna.promotion import promote

    result = promote(artefact, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)
    if not result.ok:
        click.get_current_context().exit(1)
    terminal.done(result.headline())


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import checks

    screen.print(checks("condition", data["checks"]))
    if not data["promoted"]:
        screen.print("refused")


COMMAND = promote_command
