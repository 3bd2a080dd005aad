"""`kanna calibrate SRC -o STATS`: what the inputs of every matrix look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command(
    "calibrate",
    when_interrupted="Interrupted. Run the same command to go on with the layer it was at.",
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "-o", "--output", "out", type=options.FILE, required=True, help="Folder for the statistics."
)
@click.option(
    "--calibration",
    type=options.FILE,
    multiple=True,
    help="Text to calibrate on: .txt, .jsonl of texts or conversations, or `self` "
    "(sampled from SRC); may be repeated. [default: built in]",
)
@click.option(
    "--adapter",
    type=options.MODEL,
    multiple=True,
    metavar="FOLDER",
    help="An adapter that will lie beside the quantized SRC: the text is read without and with "
    "it; may be repeated.",
)
@click.option(
    "--tokens", type=click.IntRange(512), default=24_576, show_default=True, help="Tokens to read."
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Read part I of N of the text alone; `kanna statistics merge` adds all parts up.",
)
@click.option(
    "--shards",
    type=click.IntRange(1),
    metavar="N",
    help="Read the text in N parts, each by itself, and merge them.",
)
@options.parts_on("the parts are read")
@click.option(
    "--gradients",
    is_flag=True,
    help="Write how the loss feels an error in each row, too: `optimize` needs it.",
)
@click.option("--device", help="cpu, cuda or mps. [default: an accelerator when there is one]")
@click.option(
    "--overwrite", is_flag=True, help="Calibrate again, also when the same statistics are there."
)
@options.revision
@options.offline
def calibrate_command(
    terminal: Terminal,
    source: str,
    calibration: tuple[Path, ...],
    adapter: tuple[str, ...],
    **choices: Any,
) -> None:
    """Run text through SRC and keep, for every matrix, the second moment of its inputs.

    That is how large each of them is on average, and how any two go together.

    Methods and plans use it: `kanna convert --statistics`, `kanna optimize`. imatrix.gguf, beside
    the statistics, holds their diagonal for llama.cpp. One layer is in memory at a time.
    """
    from kanna.calibration import calibrate

    result = calibrate(
        source,
        calibration=calibration or None,
        adapter=list(adapter) or None,
        progress=terminal.progress(memory=True),
        **choices,
    )
    terminal.result(result, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.calibration import expert_coverage
    from kanna.cli.ui import duration, facts, notes

    facts(
        screen,
        [
            ("Statistics", f"{data['folder']} ({format_size(data['bytes'])})"),
            (
                "Inputs",
                f"{data['sites']}"
                + (f", {len(data['blocks'])} of them in blocks" if data["blocks"] else ""),
            ),
            ("Tokens", f"{data['tokens']:,}, and {data['held_tokens']:,} held out"),
            ("Text", ", ".join(f"{name} {count:,}" for name, count in data["domains"].items())),
            ("Shrinkage", ", ".join(f"{s}: {n} inputs" for s, n in data["shrink"].items())),
            ("Device", data["device"]),
            *expert_coverage.facts(data["coverage"]),
            ("Time", "kept from before" if data["reused"] else duration(data["seconds"])),
        ],
    )
    notes(screen, data["notes"])


COMMAND = calibrate_command
