"""`kanna statistics merge SHARD … -o STATS`: statistics of a text from those of its shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("statistics", when_interrupted="Interrupted. No statistics were written; run it again.")
@click.argument("action", type=click.Choice(["merge"]))
@click.argument("shards", type=options.FILE, nargs=-1, required=True, metavar="SHARD…")
@click.option(
    "-o", "--output", "out", type=options.FILE, required=True, help="Folder for the statistics."
)
@click.option(
    "--source",
    type=options.MODEL,
    required=True,
    metavar="SRC",
    help="The model they are of: its rows decide how far second moments are trusted.",
)
@click.option("--overwrite", is_flag=True, help="Replace statistics that are there.")
@options.revision
@options.offline
def statistics_command(
    terminal: Terminal, action: str, shards: tuple[Path, ...], out: Path, **choices: Any
) -> None:
    """Add up what `kanna calibrate --shard I/N` wrote on several machines.

    The statistics are those of the whole text, but for rounding. Every SHARD is a folder; all of
    them must be of one model, text and setting.
    """
    from kanna.calibration.shards import statistics

    result = statistics(action, list(shards), out, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import duration, facts

    facts(
        screen,
        [
            ("Statistics", data["folder"]),
            ("Shards", str(len(data["shards"]))),
            ("Inputs", f"{data['sites']}"),
            ("Tokens", f"{data['tokens']:,}"),
            ("Gradients", "merged too" if data["gradients"] else "none in the shards"),
            ("Time", duration(data["seconds"])),
        ],
    )


COMMAND = statistics_command
