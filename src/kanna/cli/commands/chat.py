"""`kanna chat MODEL`: talk to an artefact."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kanna.cli import options
from kanna.cli.commands.generate import sampling
from kanna.cli.options import command

if TYPE_CHECKING:
    from kanna.cli.ui import Terminal


@command("chat", when_interrupted="Stopped.")
@click.argument("model", type=options.MODEL)
@click.option("--system", help="A system message that comes first.")
@sampling
def chat_command(terminal: Terminal, model: str, system: str | None, **choices: Any) -> None:
    """Talk to MODEL, a GGUF, through the chat template it carries.

    An empty line or the end of the input ends it. When the input is no terminal, each line is one
    turn; with --json the whole conversation is printed as one object at the end.
    """
    from kanna.generation import chat, open_engine
    from kanna.sources import references

    choices["threads"] = terminal.threads(choices["threads"])
    # A file that does not load is said before a message is asked for.
    loaded = {key: choices[key] for key in ("threads", "context", "offline")}
    open_engine(model, **loaded)
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    asks = sys.stdin.isatty()
    live = not terminal.settings.json
    if asks:
        terminal.note(
            f"{references.parse(model).label}: type a message; an empty line ends.", colour="cyan"
        )
    while True:
        if asks:
            click.secho("> ", err=True, fg="cyan", bold=True, nl=False)
        line = sys.stdin.readline()
        if not line.strip():
            break
        messages.append({"role": "user", "content": line.rstrip("\n")})
        pieces: list[str] = []
        for piece in chat(model, messages, **choices):
            pieces.append(piece)
            if live:
                click.echo(piece, nl=False)
                sys.stdout.flush()
        if live:
            click.echo()
        messages.append({"role": "assistant", "content": "".join(pieces)})
    if not live:
        terminal.json({"model": str(model), "messages": messages})


COMMAND = chat_command
