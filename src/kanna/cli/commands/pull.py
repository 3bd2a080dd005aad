"""`kanna pull MODEL`: fetch a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("pull", when_interrupted="Interrupted. Run the same command to go on from there.")
@click.argument("model", type=options.MODEL)
@options.revision
def pull_command(terminal: Terminal, model: str, revision: str | None) -> None:
    """Fetch MODEL, so that every command can use it without a network.

    Of a repository on the hub, the files that kanna reads; they go into the cache that all Hugging
    Face libraries share. Prints where the model is.
    """
    from kanna.storage.download import pull

    result = pull(model, revision=revision, progress=terminal.progress())
    terminal.result(result, _draw)
    terminal.done(result.headline())


def _draw(screen: Console, data: dict[str, Any]) -> None:
    screen.print(data["path"], soft_wrap=True)


COMMAND = pull_command
