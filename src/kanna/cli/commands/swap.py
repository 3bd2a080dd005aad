"""`kanna swap NAME PATH`: another artefact under the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.commands.ps import URL
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("swap")
@click.argument("name")
@click.argument("path", type=options.MODEL)
@click.option("--url", default=URL, show_default=True, help="Where the gateway is.")
@click.option("--key", help="A key with the scope admin. [default: $KANNA_KEY]")
def swap_command(terminal: Terminal, name: str, path: str, url: str, key: str | None) -> None:
    """Put another file under the NAME of a served model, without dropping a request.

    It is loaded beside the old one and takes over when it is ready; what began on the old one ends
    there. Returns when that is so. PATH is read by the gateway, on its machine. It needs a key with
    the scope admin on loopback too: `kanna keys create --name me --scope admin`.
    """
    from kanna.serving.administration import swap

    terminal.result(swap(name, path, url=url, key=key), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    screen.print(f"{data['name']} is {data['path']} now ({data['engine']})", soft_wrap=True)


COMMAND = swap_command
