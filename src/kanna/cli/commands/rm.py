"""`kanna rm MODEL…`: remove models from this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("rm")
@click.argument("models", type=options.MODEL, nargs=-1, required=True, metavar="MODEL...")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.yes
def rm_command(terminal: Terminal, models: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Remove models from this machine, as `kanna list` names them.

    org/name removes all its revisions from the cache of Hugging Face, org/name@REVISION one, and
    org/name:FILE one file. Models of Ollama are removed by Ollama.
    """
    from kanna.storage.removal import rm

    planned = rm(models, dry_run=True)
    if not dry_run:
        terminal.confirm(
            "Remove " + ", ".join(one.what for one in planned.removed), planned.num_bytes, yes=yes
        )
        planned = rm(models)
    terminal.result(planned, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size

    verb = "Would remove" if data["dry_run"] else "Removed"
    for one in data["removed"]:
        size = format_size(one["num_bytes"])
        screen.print(f"{verb} {one['what']}: {size}")


COMMAND = rm_command
