"""`kanna embed MODEL TEXT…`: texts as vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command("embed")
@click.argument("model", type=options.MODEL)
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option(
    "--prompt",
    metavar="NAME",
    help="Prompt of the model that goes before each TEXT, such as `query`; an empty name: none. "
    "[default: the model's own default, if it has one]",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=options.FILE,
    help="File to write: an array (.npy) or an object (.json). [default: print them]",
)
@options.threads
@options.offline
def embed_command(
    terminal: Terminal, model: str, texts: tuple[str, ...], out: Path | None, **choices: Any
) -> None:
    """Turn each TEXT into a vector; `-` reads one per line from standard input.

    MODEL is a GGUF, or an ONNX folder of an encoder. Vectors have length 1; each is printed as a
    line of JSON.
    """
    from kanna.embedding import embed

    listed = sys.stdin.read().splitlines() if texts == ("-",) else list(texts)
    choices["threads"] = terminal.threads(choices["threads"])
    made = embed(model, listed, out=out, **choices)
    if out is not None:
        terminal.done(f"Wrote {out}: {made.headline()}.")
        if not terminal.settings.json:
            return
    if terminal.settings.json:
        terminal.json(made.to_dict())
        return
    for vector in made.vectors.tolist():
        click.echo(json.dumps(vector))


COMMAND = embed_command
