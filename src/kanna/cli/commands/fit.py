"""`kanna fit SRC`: which presets fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("fit")
@click.argument("source", metavar="SRC")
@click.option("--memory", type=options.SIZE, help="Memory it may use, such as 2GB. [default: what is free here]")
@click.option(
    "--context", type=click.IntRange(1), default=4096, show_default=True, help="Tokens of context to make room for."
)
@options.revision
@options.offline
def COMMAND(
    terminal: Terminal, source: str, memory: int | None, context: int, revision: str | None, offline: bool
) -> None:
    """Show every preset: exact file size, memory with its cache, estimated speed, and whether it fits.

    Nothing is converted: sizes come from the headers, and are exact to the byte.
    """
    from kanna.fit import fit

    found = fit(
        source, memory=memory, context=context, revision=revision, offline=offline, progress=terminal.progress()
    )
    terminal.result(found, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import number, table
    from kanna.units import format_size

    limit = f" in {format_size(data['memory'])}" if data.get("memory") else ""
    rows = table(
        "", "preset", "file>", "bits>", "class", "memory>", "= weights>", "+ cache>", "+ buffers>", "tok/s>", "use"
    )
    for row in data["rows"]:
        best = row["preset"] == data.get("recommended")
        fits = row.get("fits")
        style = "bold green" if best else None if fits is None or fits else "dim"
        rows.add_row(
            "★" if best else "" if fits is None else "✓" if fits else "✗",
            row["preset"],
            format_size(row["file_bytes"]),
            f"{row['bits_per_weight']:.2f}",
            str(row.get("precision_class", "")).split(" (")[0],
            format_size(row["memory_bytes"]),
            format_size(row["weight_bytes"]),
            format_size(row["kv_bytes"]),
            format_size(row["buffer_bytes"]),
            number(row.get("tokens_per_second"), 0),
            row.get("use_case", ""),
            style=style,
        )
    screen.print(f"What fits{limit} at {data.get('context', 0):,} tokens of context", style="bold cyan")
    screen.print(rows)
    for note in data.get("notes", []):
        screen.print(f"Note: {note}", markup=False, style="yellow")
    if data.get("recommended"):
        screen.print(f"Recommended: {data['recommended']}", style="bold green")
    else:
        screen.print("Nothing fits: raise --memory, lower --context, or take a smaller model.", style="bold red")
