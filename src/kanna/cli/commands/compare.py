"""`kanna compare SRC`: make, check, measure and report several presets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna import formats
from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal
    from kanna.comparison import CompareResult


@command(
    "compare",
    when_interrupted=(
        "Interrupted. What is finished stays; run the same command to go on from there."
    ),
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    required=True,
    help="Folder for the files and the report.",
)
@click.option(
    "--formats",
    type=options.NAMES,
    shell_complete=shells.format_names,
    default=formats.DEFAULT,
    show_default=True,
    help="gguf, onnx, mlx, openvino, by comma.",
)
@click.option(
    "--presets",
    type=options.NAMES,
    shell_complete=shells.presets,
    help=(
        "Presets, by comma: Q4_K_M of GGUF, onnx:int4 of another format. "
        "[default: some of each format]"
    ),
)
@click.option(
    "--text", type=options.FILE, help="Text to evaluate on. [default: the WikiText-2 test set]"
)
@click.option(
    "--windows",
    type=click.IntRange(1),
    help="Windows of 512 tokens to evaluate. [default: as many as the precision takes]",
)
@options.precision
@click.option("--imatrix", type=options.FILE, help="A llama.cpp importance matrix.")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds of the speed test.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Make every file again, also those that are there already.",
)
@options.threads
@options.revision
@options.offline
def compare_command(terminal: Terminal, source: str, **choices: Any) -> None:
    """Convert SRC with several presets, in one format or several, check, measure and report all.

    Each file runs in its own stock runtime and is judged against one reference. A 16-bit file is
    the baseline: how much faster, how much smaller, and how close the others are. The folder gets
    report.html, report.json and a model card beside each file. Run again, it reuses what is already
    there.
    """
    from kanna.comparison import compare

    choices["threads"] = terminal.threads(choices["threads"])
    result = compare(
        source, progress=terminal.progress(memory=True), remark=terminal.note, **choices
    )
    finish(terminal, result)


def finish(terminal: Terminal, result: CompareResult) -> None:
    """Print a comparison; exit with 1 when a file failed its checks."""
    terminal.result(result, _draw)
    if not any(_is_measured(row) for row in result.to_dict()["rows"]):
        click.secho(
            "Nothing was checked or measured: no runtime of these formats is installed here "
            "(`kanna doctor` says what to install).",
            err=True,
            fg="red",
        )
        click.get_current_context().exit(3)
    failed = [row["name"] for row in result.to_dict()["rows"] if row["gate"] == "failed"]
    if failed:
        # Not an error to raise: with --json one object was printed already.
        click.secho(
            f"Checks failed for {', '.join(failed)}: report.html shows them.",
            err=True,
            fg="red",
        )
        click.get_current_context().exit(1)


def _is_measured(row: dict[str, Any]) -> bool:
    """Whether a runtime had anything to say of a file."""
    return row["gate"] in ("proved", "failed") or any(
        row[key] is not None for key in ("kl_mean", "gen_tps")
    )


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import notes, table

    best = data["recommended"]["name"]
    # Narrow terminals get what decides; the report has the rest.
    columns = [c for c in _COLUMNS if screen.width >= _LEAST_WIDTH.get(c, 0)]
    made = table("  preset", *columns)
    for row in data["rows"]:
        style = "bold green" if row["name"] == best else "dim" if row["role"] == "floor" else None
        made.add_row(
            ("★ " if row["name"] == best else "  ") + _name(row, screen.width),
            *(_cell(row, c) for c in columns),
            style=style,
        )
    for column in made.columns:
        column.no_wrap = True
    screen.print(made)
    if data["pairs"]:
        screen.print(draw_pairs(data["pairs"]))
    notes(screen, data["notes"])
    why = data["recommended"]["why"]
    screen.print(
        f"Recommended: {f'{best}. ' if best else ''}{why}",
        markup=False,
        style="bold green" if best else "bold yellow",
    )
    screen.print(f"Report: {data['report']}", soft_wrap=True)


def draw_pairs(pairs: list[dict[str, Any]]) -> Any:
    """A table of files of two formats at nearly equal bytes."""
    from kanna._util.units import format_size
    from kanna.cli.ui import number, table

    columns = ["at equal bytes", "", "size>", "", "KL>", "", "tok/s>", "", "memory>", ""]
    made = table(*columns)
    for pair in pairs:
        cells: list[str] = list(pair["names"])
        cells += [format_size(pair["bytes"][0]), f"{pair['larger']:+.1%}"]
        for key, digits in (("kl_mean", 5), ("gen_tps", 1)):
            cells += [number(v, digits) for v in pair[key]]
        made.add_row(*cells, *("–" if v is None else format_size(v) for v in pair["peak_bytes"]))
    return made


_COLUMNS = {
    "file>": "file_bytes",
    "bits>": "bits_per_weight",
    "closeness": "grade",
    "same next\ntoken, %>": "top1",
    "mean KL>": "kl_mean",
    "perplexity>": "perplexity",
    "tok/s>": "gen_tps",
    "× faster>": "speedup",
    "memory>": "peak_bytes",
    "less>": "less_memory",
    "checks": "gate",
}
_LEAST_WIDTH = {
    "same next\ntoken, %>": 95,
    "bits>": 120,
    "× faster>": 120,
    "memory>": 140,
    "perplexity>": 155,
    "less>": 155,
}
"""Characters of a terminal from which on a column is shown; the report has them all."""


def _name(row: dict[str, Any], width: int) -> str:
    if row["role"] != "floor":
        return row["name"]
    return "runtime rounding" if width >= 95 else "rounding"


def _cell(row: dict[str, Any], column: str) -> str:
    """The text of one measured value; a dash where there is none."""
    from kanna._util.units import format_size, share_less, with_range
    from kanna.checks import gate_word

    key = _COLUMNS[column]
    value = row[key]
    if value is None:
        return "–"
    if key in ("file_bytes", "peak_bytes"):
        return format_size(value)
    if key in ("gate", "grade"):
        return gate_word(value) if key == "gate" else str(value)
    if key in ("gen_tps", "speedup"):
        digits = 1 if key == "speedup" or value < 10 else 0
        spread = row["speedup_spread"] if key == "speedup" else row["speed_spread"].get(key)
        return with_range(value, spread, digits)
    if key == "less_memory":
        return share_less(value)
    if key == "top1":
        return f"{value * 100:.1f}"
    return f"{value:.{4 if key == 'kl_mean' else 2}f}"


COMMAND = compare_command
