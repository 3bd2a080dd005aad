"""`kanna cache [show|prune]`: where files are kept, and what can go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("cache")
@click.argument("action", type=click.Choice(["show", "prune"]), default="show")
@click.option("--dry-run", is_flag=True, help="Only say what pruning would remove.")
@options.yes
def cache_command(terminal: Terminal, action: str, dry_run: bool, yes: bool) -> None:
    """Show where models and files are kept and what they take, or prune what nothing needs.

    Pruning removes interrupted downloads, revisions that no branch or tag names any more, and what
    kanna makes again when it is asked to. Models stay; `kanna rm` removes those.
    """
    from kanna.storage.places import cache

    result = cache(action, dry_run=True)
    if action == "prune" and not dry_run and result.prunable:
        terminal.confirm(
            "Remove " + ", ".join(one.what for one in result.prunable), result.num_bytes, yes=yes
        )
        result = cache("prune")
    terminal.result(result, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    size = format_size(data["num_bytes"])
    if data["pruned"]:
        screen.print(f"Freed {size}")
        return
    places = table("place", "models>", "size>", "moved by", "path")
    places.columns[-1].overflow = "fold"
    for place in data["places"]:
        kept = format_size(place["num_bytes"])
        models = str(place["models"] or "")
        places.add_row(place["name"], models, kept, f"${place['variable']}", place["path"])
    screen.print(places)
    for one in data["prunable"]:
        what = f"Can be pruned: {one['what']}, {format_size(one['num_bytes'])}"
        screen.print(what)
    if data["prunable"]:
        screen.print(f"`kanna cache prune` frees {size}.")


COMMAND = cache_command
