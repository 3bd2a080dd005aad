"""`kanna bench ARTEFACT…`: size, load time, memory, speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("bench")
@click.argument("artefacts", type=options.MODEL, nargs=-1, required=True, metavar="ARTEFACT...")
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds; medians are shown, and the slowest and fastest round.",
)
@options.threads
@options.offline
def bench_command(
    terminal: Terminal,
    artefacts: tuple[str, ...],
    repeat: int,
    threads: int | None,
    offline: bool,
) -> None:
    """Measure file size, load time, peak memory, time to first token and tokens per second.

    Each measurement runs in a process of its own; the files take turns, so a warming machine
    favours none. What takes longer than half a minute is measured once.
    """
    from kanna.benchmark import PATIENCE, bench
    from kanna.benchmark.load import remark

    rows = bench(
        list(artefacts),
        repeat=repeat,
        threads=terminal.threads(threads),
        offline=offline,
        progress=terminal.progress(),
    )
    for row in rows:
        if row.repeat < repeat:
            terminal.note(
                f"{Path(row.path).name}: measured once, for a round takes longer than "
                f"{PATIENCE:.0f} s"
            )
    if busy := remark(rows[0].busy):
        terminal.note(busy)
    terminal.result({"rows": [row.to_dict() for row in rows]}, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size, with_range
    from kanna.cli.ui import number, table

    measured = (
        "load\ns>",
        "peak\nmemory>",
        "first\ntoken s>",
        "prompt\ntok/s>",
        "generate\ntok/s>",
        "energy\nJ/tok>",
    )
    made = table("model", "file>", *measured)
    for row in data["rows"]:
        cells = [
            Path(row["path"]).name,
            format_size(row["file_bytes"]),
            number(row["load_s"], 2),
            format_size(row["peak_bytes"]),
            with_range(row["ttft_s"], row["spread"]["ttft_s"], 3),
            with_range(row["prompt_tps"], row["spread"]["prompt_tps"], 1),
            # An encoder generates nothing.
            with_range(row["gen_tps"], row["spread"]["gen_tps"], 1) if row["gen_tps"] else "–",
            number(row["joules_per_token"], 2),
        ]
        made.add_row(*cells)
    screen.print(made)
    if any(row["joules_per_token"] is None for row in data["rows"]):
        screen.print(
            "Energy per token: not measurable here (no readable RAPL counter).", style="dim"
        )


COMMAND = bench_command
