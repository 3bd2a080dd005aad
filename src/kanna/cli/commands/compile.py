"""`kanna compile FOLDER --provider NAME -o OUT`: context binaries by the vendor's compiler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command("compile", when_interrupted="Interrupted. Nothing was written under the final name.")
@click.argument("folder", type=options.MODEL, metavar="FOLDER")
@click.option("-o", "--output", "out", type=options.FILE, required=True, help="Folder to write.")
@click.option(
    "--provider",
    required=True,
    metavar="NAME",
    shell_complete=shells.providers,
    help="The execution provider of onnxruntime whose compiler is asked, such as qnn or openvino.",
)
@options.offline
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def compile_command(terminal: Terminal, folder: str, out: Path, **choices: Any) -> None:
    """Compile an ONNX folder for a device ahead of time: a context binary per graph.

    The compiler comes with the execution provider (`pip install onnxruntime-qnn`); what it compiles
    for is in the provider's profile. Each graph is loaded again from what was written.
    """
    from kanna.compilation import compile

    result = compile(folder, out, progress=terminal.progress(), **choices)
    terminal.result(result, _draw)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna._util.units import format_size
    from kanna.cli.ui import table

    screen.print(f"Wrote {data['folder']}, {format_size(data['file_bytes'])}", style="bold green")
    listing = table("graph", "compiled parts>", "nodes on the CPU>", "size>", "time>", "runs on")
    for name, one in data["graphs"].items():
        listing.add_row(
            name,
            str(one["contexts"]),
            str(one["nodes"]),
            format_size(one["nbytes"]),
            f"{one['seconds']:.1f} s",
            one["compatibility"],
        )
    screen.print(listing)


COMMAND = compile_command
