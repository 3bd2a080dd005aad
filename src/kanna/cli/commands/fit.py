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
    from textwrap import shorten

    from kanna.cli.ui import number, table
    from kanna.units import format_size

    common = data["rows"][0]
    screen.print(
        f"In {format_size(data['memory'])} at {data['context']:,} tokens of context. Memory is weights "
        f"+ {format_size(common['kv_bytes'])} of cache + {format_size(common['buffer_bytes'])} of buffers; "
        "tokens/s are estimated.",
        style="bold cyan",
    )
    wide = screen.width >= 110
    rows = table("", "preset", "file>", "bits>", "nominal>", *(["class"] if wide else []), "memory>", "tok/s>", "use")
    for row in data["rows"]:
        best = row["preset"] == data["recommended"]
        substituted = abs(row["bits_per_weight"] - row["nominal_bits"]) > 0.01
        rows.add_row(
            "★" if best else "✓" if row["fits"] else "✗",
            row["preset"],
            format_size(row["file_bytes"]),
            f"{row['bits_per_weight']:.2f}",
            f"{row['nominal_bits']:.2f}" if substituted else "",
            *([row["precision_class"].split(" (")[0]] if wide else []),
            format_size(row["memory_bytes"]),
            number(row["tokens_per_second"], 0),
            row["use_case"] if wide else shorten(row["use_case"], max(16, screen.width - 62), placeholder="…"),
            style="bold green" if best else None if row["fits"] else "dim",
        )
    screen.print(rows)
    if any(row["substitutions"] for row in data["rows"]):
        screen.print("Nominal: bits the preset means, where its encodings do not fit the width of this model's rows.")
    for note in data["notes"]:
        screen.print(f"Note: {note}", markup=False, style="yellow")
    style = "bold green" if data["recommended"] else "bold yellow"
    screen.print(f"Recommended: {data['advice']}", style=style, markup=False)
