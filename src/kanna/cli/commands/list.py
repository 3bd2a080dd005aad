"""`kanna list`: the models on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("list")
def list_command(terminal: Terminal) -> None:
    """List the models on this machine, by the names that every command takes.

    Those in the cache of Hugging Face, those that came as packages, and those of Ollama.
    """
    from kanna.storage import inventory

    terminal.result(inventory.list(), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table
    from kanna.storage.inventory import age

    if not data["models"]:
        screen.print("No models here yet: `kanna pull org/name` fetches one.")
        return
    models = table("model", "size>", "kept by", "last used")
    models.columns[0].overflow = "fold"
    for model in data["models"]:
        size = format_size(model["num_bytes"])
        models.add_row(model["reference"], size, model["store"], age(model["last_used"]))
    screen.print(models)


COMMAND = list_command
