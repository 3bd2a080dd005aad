"""`kanna studio`: the page that converts, optimizes and compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command(
    "studio",
    handles_signals=True,
    when_interrupted="Stopped. What was running goes on at the next start.",
)
@click.argument("folder", required=False, type=options.FILE, metavar="[FOLDER]")
@click.option(
    "--models",
    multiple=True,
    type=options.FILE,
    help="A folder to look for models in; repeatable. [default: the current folder]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8008,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Tokens of a chat.",
)
@click.option(
    "--memory",
    type=options.SIZE,
    help="What all models of the chat may take. [default: 80 % of what is free]",
)
@click.option(
    "--upload-limit",
    type=options.SIZE,
    default="100GB",
    show_default=True,
    help="Size of a model that is dropped on the page, at most.",
)
@click.option(
    "--browser/--no-browser", default=True, help="Open the page, or only print its address."
)
@options.threads
def studio_command(terminal: Terminal, **choices: Any) -> None:
    """Open a page to choose or drop a model, convert or optimize it, and chat with the result.

    FOLDER holds jobs, results and uploaded models, ~/kanna-studio by default. The address that is
    printed holds the key of the page; keep it to yourself. Ctrl-C ends the studio.
    """
    from kanna.serving.studio import studio

    def started(address: str) -> None:
        if terminal.quiet:
            click.echo(address)
        else:
            terminal.done(f"The studio is at {address}")

    studio(
        started=started,
        remark=terminal.note,
        **choices,
    )


COMMAND = studio_command
