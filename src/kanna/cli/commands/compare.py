"""`kanna compare SRC`: make, prove, measure and report several presets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal

PRESETS = "Q8_0,Q6_K,Q4_K_M,Q3_K_M,Q2_K"


@command("compare", when_interrupted="Interrupted. What is finished stays; run the same command to go on from there.")
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", "out", type=options.FILE, required=True, help="Folder for artefacts and report.")
@click.option("--presets", type=options.NAMES, default=PRESETS, show_default=True, help="Presets, by comma.")
@click.option("--text", type=options.FILE, help="Text to evaluate on. [default: the WikiText-2 test set]")
@click.option("--windows", type=click.IntRange(1), help="Windows of 512 tokens to evaluate. [default: as for evaluate]")
@click.option("--imatrix", type=options.FILE, help="A llama.cpp importance matrix.")
@click.option("--repeat", type=click.IntRange(1), default=3, show_default=True, help="Rounds of the speed test.")
@click.option("--overwrite", is_flag=True, help="Make every artefact again, also those that are there already.")
@options.threads
@options.revision
@options.offline
def COMMAND(terminal: Terminal, source: str, **choices: Any) -> None:
    """Convert SRC with several presets, prove each, measure all side by side, and write a report.

    A 16-bit artefact is the baseline: how much faster, how much smaller, and at which KL divergence. The folder gets
    report.html, report.json and a model card beside each artefact. Run again, it reuses what is already there.
    """
    from kanna.compare import compare

    found = compare(source, progress=terminal.progress(memory=True), remark=terminal.note, **choices)
    terminal.result(found, _draw)
    failed = [row["name"] for row in found.to_dict()["rows"] if row["gate"] == "failed"]
    if failed:
        # Not an error to raise: with --json one object was printed already.
        click.secho(f"The gate failed for {', '.join(failed)}: report.html shows the checks.", err=True, fg="red")
        click.get_current_context().exit(1)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import number, table
    from kanna.units import format_size

    made = table(
        "", "preset", "file>", "bits>", "KL mean>", "top-1 %>", "perplexity>", "gen tok/s>", "× faster>", "memory>",
        "less memory>", "gate",
    )  # fmt: skip
    best = data["recommended"]["name"]
    for row in data["rows"]:
        top1, less = row["top1"], row["less_memory"]
        made.add_row(
            "★" if row["name"] == best else "",
            row["name"],
            format_size(row["file_bytes"]) if row["file_bytes"] else "–",
            number(row["bits_per_weight"], 2),
            number(row["kl_mean"], 5),
            number(None if top1 is None else top1 * 100, 1),
            number(row["perplexity"], 2),
            number(row["gen_tps"], 1),
            number(row["speedup"], 2),
            format_size(row["peak_bytes"]) if row["peak_bytes"] else "–",
            "–" if less is None else f"{less:.0%}",
            row["gate"] or "–",
            style="bold green" if row["name"] == best else "dim" if row["role"] == "floor" else None,
        )
    screen.print(made)
    for note in data["notes"]:
        screen.print(f"Note: {note}", markup=False, style="yellow")
    if best:
        screen.print(f"Recommended: {best}. {data['recommended']['why']}", markup=False, style="bold green")
    screen.print(f"Report: {data['report']}", markup=False, soft_wrap=True)
