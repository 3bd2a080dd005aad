"""`kanna merge SRC ADAPTER… -o OUT`: a fine-tuned model from its base and its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna._util import plugins
from kanna.cli import options, shells
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command(
    "merge",
    when_interrupted=(
        "Interrupted. Nothing was written under the final name; run the same "
        "command to start again."
    ),
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.argument("adapter", nargs=-1, required=True, metavar="ADAPTER[=WEIGHT]…")
@click.option(
    "-o",
    "--output",
    "out",
    help="The folder or file to write. [required unless --dry-run]",
)
@click.option(
    "--format",
    "format",
    type=click.Choice(plugins.names("kanna.conversion", "CONVERSION")),
    help="What to write. [default: a GGUF for a name that ends so, else a Hugging Face folder]",
)
@click.option(
    "--preset",
    shell_complete=shells.presets,
    help="Quantize as well, by a named mix such as Q4_K_M. [default: the types of SRC]",
)
@click.option("--encoding", help="One encoding for every weight matrix, such as bf16 or f32.")
@click.option("--plan", type=options.FILE, help="A plan, as `kanna optimize --adapter` leaves it.")
@click.option(
    "--statistics", type=options.FILE, help="Statistics of the merged model, from the same folder."
)
@click.option(
    "--split-max-size", type=options.SIZE, help="Split the file into parts no larger than this."
)
@click.option(
    "--requantize",
    is_flag=True,
    help="Round matrices of a quantized GGUF again, with the change in them; see what it costs.",
)
@click.option("--dry-run", is_flag=True, help="Check that they fit and show what would be written.")
@click.option(
    "--verify",
    is_flag=True,
    help="Afterwards prove the result in its runtime (see `kanna verify`).",
)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@options.threads
@options.revision
@options.offline
def merge_command(
    terminal: Terminal,
    source: str,
    adapter: tuple[str, ...],
    out: str | None,
    dry_run: bool,
    **choices: Any,
) -> None:
    """Write SRC with LoRA adapters merged into it.

    ADAPTER is a folder that PEFT or mlx-lm saved; several may be given, each with its weight behind
    an equals sign. SRC is best the model as it was published, in 16 bits; a GGUF takes plain LoRA,
    and rounds a quantized matrix again only with --requantize. Arithmetic is in float32, one block
    of rows at a time, and what an adapter holds that cannot be taken exactly is refused.
    """
    from kanna.cli.commands.convert import draw
    from kanna.cli.commands.verify import EXIT
    from kanna.errors import UsageError
    from kanna.merging import merge

    named = [f"--{name}" for name in ("preset", "encoding", "plan") if choices[name] is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} were given together", expected="one of them")
    if out is None and not dry_run:
        raise UsageError(
            "no output was named",
            expected="-o FOLDER or -o FILE.gguf",
            todo="add -o merged/, or --dry-run to only check",
        )
    result = merge(
        source,
        list(adapter),
        out,
        dry_run=dry_run,
        progress=terminal.progress(memory=True),
        **choices,
    )
    terminal.result(result, lambda screen, data: draw(screen, data, dry_run, out))
    gate = result.to_dict().get("verify")
    if gate and gate["status"] != "proved":
        click.get_current_context().exit(EXIT[gate["status"]])


COMMAND = merge_command
