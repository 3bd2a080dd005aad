"""`kanna adapt SRC --data FILE -o OUT`: an adapter, or the model, from your own chats or texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from rich.console import Console

    from kanna.cli.ui import Terminal


@command(
    "adapt",
    when_interrupted=(
        "Interrupted. Nothing was written under the final name; run the same "
        "command to go on from its last checkpoint: one is made every minute."
    ),
)
@click.argument("source", type=options.MODEL, metavar="SRC")
@click.option(
    "--data",
    type=options.FILE,
    multiple=True,
    required=True,
    help="Chats or texts: .jsonl, .parquet, .txt or a folder of them; may be given several times.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    required=True,
    help="Folder for what is trained.",
)
@click.option(
    "--objective",
    type=click.Choice(["sft", "dpo", "orpo"]),
    default="sft",
    show_default=True,
    help="Learn answers as they are, or prefer one of two.",
)
@click.option(
    "--method",
    type=click.Choice(["lora", "rslora", "dora", "full"]),
    default="lora",
    show_default=True,
    help="What is trained: changes beside the model, or in full its weights.",
)
@click.option("--rank", type=int, default=16, show_default=True, help="Rank of the changes.")
@click.option(
    "--alpha", type=options.POSITIVE, help="Strength of the changes. [default: twice the rank]"
)
@click.option(
    "--learning-rate", type=options.POSITIVE, help="Of AdamW. [default: by the objective]"
)
@click.option(
    "--auto",
    is_flag=True,
    help="Find the learning rate by a short test first, on the data itself.",
)
@click.option(
    "--teacher",
    type=options.MODEL,
    help="A larger model of the same vocabulary: learn what it says of the answers, too.",
)
@click.option(
    "--beta", type=options.POSITIVE, default=0.1, show_default=True, help="Weight of a preference."
)
@click.option(
    "--epochs",
    type=options.POSITIVE,
    default=3.0,
    show_default=True,
    help="How often all is read at most.",
)
@click.option("--steps", type=int, help="Steps at most. [default: by the epochs]")
@click.option(
    "--minutes",
    type=options.POSITIVE,
    default=8.0,
    show_default=True,
    help="Minutes of training at most.",
)
@click.option("--batch", type=int, default=4, show_default=True, help="Examples of one step.")
@click.option(
    "--max-length", type=int, default=1024, show_default=True, help="Tokens of an example at most."
)
@click.option(
    "--packing/--no-packing",
    default=None,
    help="Put short examples into rows of --max-length tokens, in the place of padding. "
    "[default: where it saves more than a tenth of the tokens]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of split, order and start.")
@click.option(
    "--samples", type=int, default=2, show_default=True, help="Held-out prompts that are answered."
)
@click.option(
    "--base-bits", type=click.Choice(["4", "8"]), help="Hold the base in few bits, on the CPU."
)
@click.option(
    "--for",
    "for_plan",
    help="Preset of GGUF or plan file: train on with the values that it stores, keep the better.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Hold the adapter's file in llama.cpp to what was measured in training.",
)
@click.option(
    "--draft",
    type=options.MODEL,
    metavar="MODEL",
    help="`mtp` for the model's own head, or a small model of the same vocabulary: count how many "
    "of its guesses are taken on held-out text, before and after.",
)
@click.option(
    "--retrain-draft",
    is_flag=True,
    help="With --draft: train what drafts on, and keep it where more of its guesses are taken.",
)
@click.option(
    "--backend",
    type=click.Choice(["torch", "mlx"]),
    help="PEFT and TRL, or mlx-lm. [default: mlx on Apple silicon where it does what is asked]",
)
@click.option("--device", help="cpu, cuda or mps. [default: an accelerator when there is one]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@options.threads
@options.revision
@options.offline
@options.tracking
def adapt_command(
    terminal: Terminal, source: str, data: tuple[Any, ...], out: Any, **choices: Any
) -> None:
    """Train a LoRA adapter of SRC on your own data, with PEFT and TRL.

    A tenth of the examples is held out before anything is learned. Only answers are learned, and
    training ends where the held-out loss falls no more. With `--objective dpo` or `orpo` the data
    are pairs: a prompt, a chosen answer, a rejected one. `kanna merge` and
    `kanna convert --adapter` make files of the adapter, `kanna verify --adapter` measures what they
    keep of it. With `--method full` all weights are trained: the output is a model of its own.

    In the end the adapter is read again, merged and run in llama.cpp. Exit code 1: what was learned
    is not there, and a note says which check failed.
    """
    from kanna.training import adapt

    bits = choices.pop("base_bits")
    choices["base_bits"] = bits and int(bits)
    result = adapt(
        source, list(data), out, progress=terminal.progress(), remark=terminal.note, **choices
    )
    terminal.result(result, _draw)
    if result.gate.get("status") == "failed":
        click.get_current_context().exit(1)


def _draw(screen: Console, data: dict[str, Any]) -> None:
    from kanna.cli.ui import checks, duration, facts, notes
    from kanna.training.result import figure_facts

    counts = data["examples"]
    facts(
        screen,
        [
            ("Wrote", data["path"]),
            ("Held-out loss", f"{data['base_loss']:.4f} before, {data['tuned_loss']:.4f} after"),
            *figure_facts(data),
            ("Learning rate", _rate(data)),
            ("Steps", f"{data['steps']}, the best after {data['best_step']}"),
            ("Examples", f"{counts['train']} learned, {counts['held_out']} held out"),
            ("Time", duration(data["seconds"])),
            ("Report", data["report"]),
        ],
    )
    if data["gate"]:
        screen.print(checks("check of the adapter's file", data["gate"]["checks"]))
    notes(screen, data["notes"])


def _rate(data: dict[str, Any]) -> str:
    """`0.0021, found in 48 trial steps`; "" where it was given."""
    test = data["rate_test"]
    return f"{test['rate']:.2g}, found in {test['steps']} trial steps" if test else ""


COMMAND = adapt_command
