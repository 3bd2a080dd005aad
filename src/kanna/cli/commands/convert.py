"""`kanna convert SRC -o OUT`: one plan, streamed and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna import formats
from kanna._util import plugins
from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command(
    "convert",
    when_interrupted=(
        "Interrupted. Nothing was written under the final name; run the same "
        "command to start again."
    ),
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "-o",
    "--output",
    "out",
    help="The file or folder to write. [required unless --dry-run]",
)
@click.option(
    "--preset",
    shell_complete=shells.presets,
    help="A named mix (`kanna fit SRC` lists them). [default: Q4_K_M]",
)
@click.option("--encoding", help="One encoding for every weight matrix, such as q8_0 or bf16.")
@click.option(
    "--plan",
    type=options.FILE,
    help="A plan file (JSON): patterns and encodings, first match wins.",
)
@click.option("--imatrix", type=options.FILE, help="A llama.cpp importance matrix.")
@click.option(
    "--statistics", type=options.FILE, help="A folder of statistics, see `kanna calibrate`."
)
@click.option(
    "--method",
    type=click.Choice(plugins.names("kanna.methods", "METHOD")),
    help="How values are chosen: error feedback, best error by search, or plain rounding. "
    "[default: gptq with --statistics, else search]",
)
@click.option(
    "--device",
    help="Where gptq runs: cpu, cuda or mps. [default: an accelerator when there is one]",
)
@click.option(
    "--format",
    "format",
    type=click.Choice(plugins.names("kanna.conversion", "CONVERSION")),
    help="Container to write; safetensors makes a Hugging Face folder, onnx one "
    "for onnxruntime-genai, mlx one "
    "for mlx-lm, openvino one for openvino-genai. [default: gguf]",
)
@click.option(
    "--split-max-size", type=options.SIZE, help="Split the file into parts no larger than this."
)
@click.option(
    "--include",
    type=options.NAMES,
    default=[],
    help="Patterns of products an int8 ONNX graph quantizes.",
)
@click.option(
    "--exclude",
    type=options.NAMES,
    default=[],
    help="Patterns of products an int8 ONNX graph leaves float.",
)
@options.static
@click.option(
    "--adapter",
    type=options.FILE,
    help="Write this LoRA adapter alone, for a runtime to apply beside SRC (`kanna merge` merges).",
)
@click.option(
    "--mmproj",
    is_flag=True,
    help="Write the vision tower alone, for llama.cpp to read beside the GGUF of the text; "
    "--encoding is f16, f32, bf16 or q8_0.",
)
@options.target
@options.provider
@click.option(
    "--dry-run", is_flag=True, help="Show what would be written, to the byte; write nothing."
)
@click.option(
    "--verify",
    is_flag=True,
    help="Afterwards prove the file in the real runtime (see `kanna verify`).",
)
@click.option(
    "--nonfinite",
    type=click.Choice(["refuse", "zero"]),
    default="refuse",
    show_default=True,
    help="What to do with NaN and infinity in the source.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@options.threads
@options.revision
@options.offline
def convert_command(
    terminal: Terminal, source: str, out: str | None, dry_run: bool, **choices: Any
) -> None:
    """Write SRC as one file or folder at the precision you choose.

    Give one of --preset (Q4_K_M when none is given), --encoding or --plan. The file is streamed:
    memory stays at a few blocks of rows, and the file appears under its name only when it is whole.
    It is then read again and checked.
    """
    from kanna._util import digest

    whole = choices["adapter"] is None and not (choices["mmproj"] or dry_run)
    if whole and choices["format"] in (None, formats.DEFAULT):
        # Needs no lock of Python's: it runs beside the imports that follow.
        given = Path(source).expanduser()
        digest.begin(sorted(given.glob("*.safetensors")) if given.is_dir() else [given])

    from kanna.cli.commands.verify import EXIT
    from kanna.errors import UsageError
    from kanna.verified_conversion import convert

    chosen = [f"--{k}" for k in ("preset", "encoding", "plan") if choices[k] is not None]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} were given together", expected="one of them")
    if out is None and not dry_run:
        raise UsageError(
            "no output was named",
            expected="-o FILE",
            todo="add -o model.gguf, or --dry-run to only look",
        )
    result = convert(
        source, out, dry_run=dry_run, progress=terminal.progress(memory=True), **choices
    )
    terminal.result(result, lambda screen, data: draw(screen, data, dry_run, out))
    gate = result.to_dict().get("verify")
    if gate and gate["status"] != "proved":
        click.get_current_context().exit(EXIT[gate["status"]])


def draw(screen: Console, data: dict[str, Any], dry_run: bool, out: str | None) -> None:
    """Print what was written, or would be.

    Args:
        screen: Where it is printed.
        data: The result as JSON has it.
        dry_run: Whether nothing was written.
        out: What the user named the output.
    """
    from kanna._util.units import format_size, precision_class
    from kanna.cli.commands.verify import draw_checks
    from kanna.cli.ui import duration, facts, notes, table

    bits = data["bits_per_weight"]
    nominal = data.get("nominal_bits")
    nominal_text = f" (nominal {nominal:.2f})" if nominal and abs(nominal - bits) > 0.01 else ""
    facts(
        screen,
        [
            (
                "Would write" if dry_run else "Wrote",
                ", ".join(str(p) for p in data["paths"]) if out else "",
            ),
            ("Plan", data.get("preset")),
            ("Size", f"{format_size(data['file_bytes'])} ({data['file_bytes']:,} bytes)"),
            ("Bits per weight", f"{bits:.2f}{nominal_text}: {precision_class(bits)}"),
            ("Time", duration(data["seconds"]) if data.get("seconds") and not dry_run else ""),
            (
                "Peak memory",
                format_size(data["peak_bytes"]) if data.get("peak_bytes") and not dry_run else "",
            ),
        ],
    )
    draw_substitutions(screen, data.get("substitutions", []))
    if dry_run and data.get("tensors"):
        listing = table("tensor", "shape>", "from", "to", "method", "size>")
        for row in data["tensors"]:
            shape = " × ".join(map(str, row["shape"]))
            listing.add_row(
                row["name"],
                shape,
                row["source"],
                row["encoding"],
                row["method"],
                format_size(row["bytes"]),
            )
        screen.print(listing)
    notes(screen, data.get("notes", []))
    if data.get("verify"):
        draw_checks(screen, data["verify"])


def draw_substitutions(screen: Console, substitutions: list[dict[str, Any]]) -> None:
    """Say in one line per kind which tensors could not get what the preset wanted."""
    kinds: dict[tuple[str, str, str], int] = {}
    for one in substitutions:
        key = (one["wanted"], one["got"], one.get("reason", ""))
        kinds[key] = kinds.get(key, 0) + 1
    for (wanted, got, reason), count in kinds.items():
        what = "tensor" if count == 1 else "tensors"
        screen.print(f"{count} {what}: {got} instead of {wanted} ({reason})", style="yellow")


COMMAND = convert_command
