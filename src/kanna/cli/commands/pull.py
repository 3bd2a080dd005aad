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
@click.option("--variant", help="Of a registry: which of several variants.")
@click.option(
    "--memory",
    type=options.SIZE,
    help="Of a registry: memory that the variant may need, as 2GB. [default: what is free here]",
)
@options.target
@click.option(
    "--key", type=options.FILE, help="Of a registry: the public key of who must have signed it."
)
def pull_command(terminal: Terminal, model: str, **choices: Any) -> None:
    """Fetch MODEL, so that every command can use it without a network.

    Of a repository on the hub, the files that kanna reads; they go into the cache that all Hugging
    Face libraries share. Of a registry (oci://HOST/NAME:TAG) the variant that fits, every file held
    to its digest. Prints where the model is.
    """
    from kanna.storage.download import pull

    result = pull(model, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)
    if result.signature == "not checked":
        terminal.note(
            "It is signed: give the public key of who signed it with --key to check that."
        )
    terminal.done(result.headline())


def _draw(screen: Console, data: dict[str, Any]) -> None:
    screen.print(data["path"], soft_wrap=True)


COMMAND = pull_command
