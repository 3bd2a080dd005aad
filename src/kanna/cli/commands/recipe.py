"""`kanna recipe ACTION [PATH]`: recipes from earlier runs and from Olive, and their JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("recipe", when_interrupted="Interrupted. Nothing was written.")
@click.argument("action", type=click.Choice(["schema", "from", "convert"]))
@click.argument("path", type=options.FILE, required=False)
@click.option(
    "-o", "--output", "out", type=options.FILE, help="File to write. [default: standard output]"
)
def recipe_command(terminal: Terminal, action: str, path: Path | None, out: Path | None) -> None:
    """Write the recipe of a run or of an Olive config, or the JSON Schema of recipes.

    `from` PATH: the recipe that makes again what lies at PATH, a folder of `run`, `optimize` or
    `compare`, or a model. `convert` PATH: what the Olive config PATH does, with what is left
    out. `schema`: for editors, which then complete and check recipes.
    """
    from kanna.recipes import recipe

    result = recipe(action, path, out)
    for one in result.left_out:
        terminal.note(f"Left out: {one}" if action == "convert" else f"Note: {one}")
    terminal.result(result, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.escaping import visible_text

    if data["path"]:
        screen.print(data["path"], markup=False, soft_wrap=True)
    else:
        click.echo(visible_text(data["text"]), nl=False)


COMMAND = recipe_command
