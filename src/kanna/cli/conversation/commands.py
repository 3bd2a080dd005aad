"""Commands in a conversation: lines that begin with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from kanna.cli.conversation.line_reader import MARK
from kanna.cli.conversation.state import Conversation
from kanna.errors import UsageError

HELP = f"""\
/help            this list
/clear           forget what was said
/image FILE      show a picture with the next message
/set             show the options of the next answer
/set NAME VALUE  change one: temperature, top-p, max-tokens, seed, system
/save FILE       write the conversation as JSON
/load FILE       go on with a saved one
/bye             end (so does Ctrl-D)

{MARK} begins a message of several lines, and ends it.
Ctrl-C stops an answer. The arrow keys bring back earlier lines. //x sends /x."""
_ENDING = ("/bye", "/exit", "/quit")
NAMES = ("/bye", "/clear", "/exit", "/help", "/image", "/load", "/quit", "/save", "/set")


def run_command(line: str, conversation: Conversation) -> str | None:
    """Do what a line says.

    Returns:
        What to show; None: the conversation ends.

    Raises:
        KannaError: It cannot be done, and nothing has changed.
    """
    name, _, rest = line.strip().partition(" ")
    if name in _ENDING:
        return None
    handlers: dict[str, Callable[[Conversation, str], str]] = {
        "/help": lambda _, __: HELP,
        "/?": lambda _, __: HELP,
        "/clear": _clear,
        "/image": _image,
        "/set": _set,
        "/save": _save,
        "/load": _load,
    }
    if name not in handlers:
        near = difflib.get_close_matches(name, NAMES, 1)
        raise UsageError(
            f"{name} is no command",
            expected=near[0] if near else "",
            todo=f"/help lists them; to send it, write /{line.strip()}" if not near else "",
        )
    return handlers[name](conversation, rest.strip())


def _clear(conversation: Conversation, _: str) -> str:
    conversation.turns.clear()
    conversation.images.clear()
    return "Forgotten."


def _image(conversation: Conversation, rest: str) -> str:
    from kanna.runtimes import picture_prompt

    if not rest:
        raise UsageError("no picture was named", expected="/image FILE")
    path = str(Path(rest).expanduser())
    picture_prompt.files([path], conversation.choices.get("mmproj"))
    conversation.images.append(path)
    return f"The next message shows {path}."


def _save(conversation: Conversation, rest: str) -> str:
    if not rest:
        raise UsageError("no file was named", expected="/save FILE")
    if not conversation.turns:
        raise UsageError("nothing was said yet")
    path = Path(rest).expanduser()
    conversation.save(path)
    return f"Saved to {path}."


def _load(conversation: Conversation, rest: str) -> str:
    if not rest:
        raise UsageError("no file was named", expected="/load FILE")
    conversation.load(Path(rest).expanduser())
    count = len(conversation.turns)
    return f"{count} {'message' if count == 1 else 'messages'} loaded."


def _set(conversation: Conversation, rest: str) -> str:
    name, _, text = rest.partition(" ")
    if not name:
        lines = [f"{key:<12} {_shown(conversation, key)}" for key in _OPTIONS]
        return "\n".join(lines)
    name = name.replace("_", "-")
    if name not in _OPTIONS:
        near = difflib.get_close_matches(name, _OPTIONS, 1)
        raise UsageError(f"{name} is no option", expected=near[0] if near else ", ".join(_OPTIONS))
    text = text.strip()
    if name == "system":
        conversation.system = text
    else:
        kind, valid, expected = _NUMBERS[name]
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise UsageError(f"{name} {text or 'without a value'}", expected=expected)
        conversation.choices[name.replace("-", "_")] = value
    return f"{name} is {_shown(conversation, name)} now."


def _shown(conversation: Conversation, name: str) -> str:
    if name == "system":
        return conversation.system or "empty"
    return str(conversation.choices.get(name.replace("-", "_")))


_NUMBERS: dict[str, tuple[Callable[[str], float], Callable[[float], bool], str]] = {
    "temperature": (float, lambda value: 0 <= value < float("inf"), "a number from 0 on"),
    "top-p": (float, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "max-tokens": (int, lambda value: value >= 1, "a whole number from 1 on"),
    "seed": (int, lambda _: True, "a whole number"),
}
_OPTIONS = (*_NUMBERS, "system")
