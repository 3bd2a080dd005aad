"""`kanna chat MODEL`: talk to an artefact."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from kanna._util import interruption
from kanna._util.interruption import Terminated
from kanna.cli import options
from kanna.cli.commands.generate import sampling
from kanna.cli.options import command
from kanna.cli.streams import for_stdout
from kanna.errors import KannaError
from kanna.escaping import visible_text

if TYPE_CHECKING:
    from kanna.cli.conversation import Conversation, LineReader
    from kanna.cli.ui import Terminal

_HISTORY = "chat-history"
_OF_ENGINE = ("threads", "context", "adapter", "mmproj", "offline")
"""Options with which a model is loaded."""


@command("chat", when_interrupted="Stopped.")
@click.argument("model", type=options.MODEL)
@click.option("--system", help="A system message that comes first.")
@sampling
def chat_command(terminal: Terminal, model: str, system: str | None, **choices: Any) -> None:
    """Talk to MODEL, a GGUF, through the chat template it carries.

    /help lists the commands of a conversation, /bye or the end of the input ends it; Ctrl-C stops
    an answer. When the input is no terminal, each line is one turn and none is a command; with
    --json the whole conversation is printed as one object at the end.
    """
    from kanna._util.folders import state_folder
    from kanna.cli.conversation import Conversation, LineReader
    from kanna.cli.conversation.commands import NAMES
    from kanna.generation import open_engine
    from kanna.runtimes import picture_prompt
    from kanna.sources import references

    choices["threads"] = terminal.threads(choices["threads"])
    # A file that does not load is said before a message is asked for, and so is a picture.
    images = list(map(str, choices.pop("image")))
    picture_prompt.files(images, choices["mmproj"])
    open_engine(model, **{key: choices[key] for key in _OF_ENGINE})
    conversation = Conversation(
        model=str(model), system=system or "", images=images, choices=choices
    )
    reader = LineReader(NAMES, state_folder() / _HISTORY)
    if reader.interactive:
        label = references.parse(model).label
        terminal.note(f"{label}: type a message; /help lists the commands.", colour="cyan")
    with closing(reader):
        _talk(terminal, conversation, reader)
    if terminal.settings.json:
        terminal.json(conversation.to_dict())


def _talk(terminal: Terminal, conversation: Conversation, reader: LineReader) -> None:
    """Take messages and answer them until the end."""
    going_on = True
    while going_on:
        try:
            going_on = _turn(terminal, conversation, reader)
        except KeyboardInterrupt as interrupt:
            if _ends(interrupt):
                raise
            interruption.answered()
            click.echo(err=True)
            terminal.note("/bye ends.", colour="cyan")


def _turn(terminal: Terminal, conversation: Conversation, reader: LineReader) -> bool:
    """Take one message and answer it; return whether more may come."""
    from kanna.cli.conversation import run_command

    line = reader.read()
    if line is None or not line.strip():
        return line is not None
    try:
        if reader.interactive and line.startswith("/") and not line.startswith("//"):
            shown = run_command(line, conversation)
            if shown is None:
                return False
            click.echo(visible_text(shown), err=True)
        else:
            line = line[1:] if reader.interactive and line.startswith("//") else line
            _answer(terminal, conversation, line)
    except KannaError as error:
        if not reader.interactive:
            raise
        terminal.note(_short(error))
    return True


def _ends(interrupt: KeyboardInterrupt) -> bool:
    """Whether it ends the conversation: SIGTERM does, and Ctrl-C where nobody types."""
    return isinstance(interrupt, Terminated) or not sys.stdin.isatty()


def _short(error: KannaError) -> str:
    parts = [str(error.found)]
    if error.expected:
        parts.append(f"expected {error.expected}")
    return "; ".join([*parts, *([error.todo] if error.todo else [])])


def _answer(terminal: Terminal, conversation: Conversation, text: str) -> None:
    """Answer one message, showing the text as it comes."""
    from kanna.generation import chat, close, open_engine

    live = not terminal.settings.json
    choices = conversation.choices
    asked, images = conversation.asked(text)
    pieces: list[str] = []
    reason = ""
    try:
        with _stoppable() as stopped:
            stream = chat(conversation.model, asked, image=images, **choices)
            for piece in stream:
                pieces.append(piece)
                if live:
                    click.echo(for_stdout(piece), nl=False)
                    sys.stdout.flush()
                if stopped:
                    stream.close()
                    reason = "stopped"
                    break
    except KeyboardInterrupt as interrupt:
        if _ends(interrupt):
            raise
        # The second Ctrl-C: whatever the engine is in, it is loaded again for the next message.
        close()
        interruption.answered()
        reason = "stopped"
    if live and (pieces or not reason):
        click.echo()
    if reason:
        terminal.note("[stopped]")
    if pieces or not reason:
        answer = {"role": "assistant", "content": "".join(pieces)}
        conversation.turns += [conversation.next(text), answer]
        conversation.images.clear()
    if reason:
        return
    loaded = {key: choices[key] for key in _OF_ENGINE}
    reason = open_engine(conversation.model, **loaded).last.reason
    if reason == "length":
        count = choices["max_tokens"]
        terminal.note(f"[cut off at {count} tokens; more with /set max-tokens {2 * count}]")
    elif reason == "context":
        terminal.note(f"[cut off: the context of {choices['context']} tokens is full; /clear]")


@contextmanager
def _stoppable() -> Generator[list[int]]:
    """A list that is no longer empty once Ctrl-C was pressed; a second one raises.

    An answer is stopped between two pieces of it: the engine goes on from there.
    """
    presses: list[int] = []

    def press(number: int, _: Any) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    if not sys.stdin.isatty():
        yield presses
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


COMMAND = chat_command
