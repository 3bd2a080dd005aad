"""`kanna generate MODEL PROMPT`: run an artefact once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command
from kanna.cli.streams import for_stdout

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


_OF_PICTURES = (
    click.option(
        "--image",
        multiple=True,
        type=options.FILE,
        help="A picture to look at, PNG or JPEG, before the prompt or where it has <__media__> "
        "(may be given several times).",
    ),
    click.option(
        "--mmproj",
        type=options.MODEL,
        help="The vision tower, an mmproj of the same checkpoint.",
    ),
)


def sampling(function: Any) -> Any:
    """Add the options of `generate` and `chat` alike."""
    for option in (
        options.offline,
        click.option(
            "--adapter",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="A LoRA adapter in GGUF, scaled where it says so (may be given several times).",
        ),
        *_OF_PICTURES,
        options.threads,
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of the random choices."
        ),
        click.option(
            "--top-p",
            type=options.Number(0, 1),
            default=0.95,
            show_default=True,
            help="Choose among the likeliest tokens that make up this share.",
        ),
        click.option(
            "--temperature",
            type=options.Number(0),
            default=0.0,
            show_default=True,
            help="0 always takes the likeliest token.",
        ),
        click.option(
            "--context",
            type=click.IntRange(1),
            default=4096,
            show_default=True,
            help="Tokens of context.",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(1),
            default=256,
            show_default=True,
            help="Stop after this many new tokens.",
        ),
        click.option(
            "--stop",
            multiple=True,
            help="Stop where this text appears (may be given several times).",
        ),
    ):
        function = option(function)
    return function


@command("generate", when_interrupted="Stopped.")
@click.argument("model", type=options.MODEL)
@click.argument("prompt")
@click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template.")
@sampling
def generate_command(terminal: Terminal, model: str, prompt: str, **choices: Any) -> None:
    """Continue PROMPT with MODEL, a GGUF or a folder that kanna wrote; `-` reads it from stdin."""
    from kanna.generation import generate

    if prompt == "-":
        prompt = sys.stdin.read()
    choices["threads"] = terminal.threads(choices["threads"])
    began = time.perf_counter()
    pieces: list[str] = []
    live = not terminal.settings.json
    answer = generate(model, prompt, **choices)
    for piece in answer:
        if live and not pieces and not terminal.quiet:
            click.secho(for_stdout(prompt), nl=False, dim=True)
        pieces.append(piece)
        if live:
            click.echo(for_stdout(piece), nl=False)
            sys.stdout.flush()
    seconds = time.perf_counter() - began
    if live:
        click.echo()
        speed = f", {answer.usage.tps:.1f} tokens/s" if answer.usage.tps else ""
        terminal.done(f"{answer.usage.tokens} tokens in {seconds:.1f} s{speed}")
    else:
        asked = {"model": str(model), "prompt": prompt}
        terminal.json(asked | answer.to_dict() | {"seconds": seconds})


COMMAND = generate_command
