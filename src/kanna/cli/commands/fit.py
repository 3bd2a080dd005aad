"""`kanna fit SRC`: which presets fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna import formats
from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("fit")
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "--memory",
    type=options.SIZE,
    help="Memory it may use, such as 2GB. [default: the target's, else what is free here]",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens of context to make room for. [default: the target's, else 4096]",
)
@click.option(
    "--format",
    metavar="FORMAT",
    shell_complete=shells.format_names,
    default=formats.DEFAULT,
    show_default=True,
    help="Whose presets to show, a format that a runtime runs.",
)
@options.target
@click.option(
    "--speeds",
    type=options.FILE,
    help="Costs of encodings that `kanna bench SRC --encodings --export FILE` measured elsewhere.",
)
@click.option(
    "--mmproj",
    is_flag=True,
    help="Count the vision tower of SRC too, in 16 bits, as `kanna convert --mmproj` writes it.",
)
@options.revision
@options.offline
def fit_command(terminal: Terminal, source: str, **choices: Any) -> None:
    """Show every preset: exact size, memory with its cache, estimated speed, whether it fits.

    Nothing is converted: sizes come from the headers. They are exact to the byte, but for the graph
    of ONNX folders.
    """
    from kanna.sizing import fit

    result = fit(source, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)
    if not any(row["fits"] for row in result.to_dict()["rows"]):
        click.get_current_context().exit(1)


# Characters of a line that everything but the use case takes, those of a preset among them, that
# the columns of a wide terminal add to it, and the fewest worth giving to the use case: a preset
# keeps to one line.
_BESIDES_USE, _PRESET, _WIDE_COLUMNS, _LEAST_USE = 54, 7, 20, 16


def _is_substituted(row: dict[str, Any]) -> bool:
    """Whether some tensors take more bits than the preset means."""
    return abs(row["bits_per_weight"] - row["nominal_bits"]) > 0.01


def _prompt(row: dict[str, Any]) -> str:
    speed = row["prompt_tokens_per_second"]
    return f"{speed:,.0f}" if speed else "?"


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from textwrap import shorten

    from kanna._util.units import format_size
    from kanna.cli.ui import notes, number, table

    common = data["rows"][0]
    device = data["target"]
    where = f"{device['title']}, {device['backend']}: in" if device else "In"
    screen.print(
        f"{where} {format_size(data['memory'])} at {data['context']:,} tokens of context. Memory "
        f"is weights + {format_size(common['kv_bytes'])} of cache + "
        f"{format_size(common['buffer_bytes'])} of buffers + what the runtime holds beside, from "
        f"{format_size(min(row['runtime_bytes'] for row in data['rows']))} on; tokens/s are "
        "estimated.",
        style="bold cyan",
    )
    wide = screen.width >= 110
    longer = max(0, max(len(row["preset"]) for row in data["rows"]) - _PRESET)
    room = screen.width - _BESIDES_USE - longer - (_WIDE_COLUMNS if wide else 0)
    substituted = {r["preset"] for r in data["rows"] if _is_substituted(r)}
    nominal = ["nominal>"] if wide and substituted else []
    extra, use = ["class"] if wide else [], ["use"] if room >= _LEAST_USE else []
    prompts = any(row["prompt_tokens_per_second"] for row in data["rows"])
    speeds = ["tok/s>", *(["prompt/s>"] if prompts else [])]
    columns = ["", "preset", "file>", "bits>", *nominal, *extra, "memory>", *speeds, *use]
    rows = table(*columns)
    for row in data["rows"]:
        best = row["preset"] == data["recommended"]
        marked = row["preset"] in substituted
        bits = f"{row['nominal_bits']:.2f}" if marked else ""
        phrase = shorten(row["use_case"], max(room, _LEAST_USE), placeholder="…")
        cells = [
            "★" if best else "✓" if row["fits"] else "✗" if not row["outside"] else "⊘",
            row["preset"],
            format_size(row["file_bytes"]),
            f"{row['bits_per_weight']:.2f}" + ("*" if marked and not wide else ""),
            *([bits] if nominal else []),
            *([row["precision_class"].split(" (")[0]] if extra else []),
            format_size(row["memory_bytes"]),
            number(row["tokens_per_second"], 0) if row["tokens_per_second"] else "?",
            *([_prompt(row)] if prompts else []),
            *([phrase] if use else []),
        ]
        rows.add_row(*cells, style="bold green" if best else None if row["fits"] else "dim")
    screen.print(rows)
    if any(row["substitutions"] for row in data["rows"]):
        meaning = "Nominal: bits" if wide else "* More than"
        screen.print(
            f"{meaning} the preset means, where its encodings do not fit the width of this "
            "model's rows."
        )
    if refused := [row["preset"] for row in data["rows"] if row["outside"]]:
        screen.print(f"⊘ has tensors that {data['target']['name']} does not multiply: ", end="")
        screen.print(", ".join(refused))
    notes(screen, data["notes"])
    style = "bold green" if data["recommended"] else "bold yellow"
    screen.print(f"Recommended: {data['advice']}", style=style)


COMMAND = fit_command
