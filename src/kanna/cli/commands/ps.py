"""`kanna ps`: what a running gateway serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal

URL = "http://127.0.0.1:8000"


@command("ps")
@click.option("--url", default=URL, show_default=True, help="Where the gateway is.")
@click.option(
    "--key",
    help="A key with the scope metrics, where the gateway asks for one. [default: $KANNA_KEY]",
)
def ps_command(terminal: Terminal, url: str, key: str | None) -> None:
    """Show the models of a running gateway: engines, memory, requests, restarts."""
    from kanna.serving.administration import ps

    terminal.result(ps(url=url, key=key), _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    columns = ("model", "engine", "state", "memory>", "running>", "waiting>", "restarts>")
    models = table(*columns, "file")
    for column in models.columns[:3]:
        column.no_wrap = True  # names that are cut say nothing
    for model in data["models"]:
        loaded = model["state"] != "not loaded"
        memory = (
            format_size(model.get("resident") or model["bytes"])
            if loaded
            else f"({format_size(model['bytes'])})"
        )
        numbers = [str(model.get(n, "")) for n in ("running", "waiting", "restarts")]
        canary = model.get("canary")
        state = model["state"] + (f", canary {canary['state']}" if canary else "")
        engine = Path(model.get("program") or model["engine"]).name
        models.add_row(model["name"], engine, state, memory, *numbers, Path(model["path"]).name)
    screen.print(models)


COMMAND = ps_command
