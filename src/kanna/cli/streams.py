"""Standard output and error as they are: narrow encodings, readers that leave, no colours."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys
from typing import TextIO

from kanna.escaping import visible_text

_PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "←": "<-",
    "‖": "||",
    "·": "-",
    "•": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "\u202f": " ",
    "µ": "u",
    "✓": "+",
    "✔": "+",
    "✗": "x",
    "✘": "x",
    "─": "-",
    "━": "-",
    "│": "|",
}
_HANDLER = "kanna.plain"


def prepare() -> None:
    """Let output lose a sign that its encoding has not, in place of failing."""
    codecs.register_error(_HANDLER, _plainer)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and not is_unicode(stream):
            reconfigure(errors=_HANDLER)


def for_stdout(text: str) -> str:
    """Text of a model as standard output gets it: as it is, but to a terminal as text alone."""
    return visible_text(text) if sys.stdout.isatty() else text


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream takes every character."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        return codecs.lookup(encoding).name.startswith("utf")
    except LookupError:
        return False


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """What stands in for characters that an encoding has not."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, "?") for c in lost), error.end


def reader_left() -> bool:
    """Whether nobody reads standard output or error any more, as after `| head`."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll.register(stream.fileno(), 0)  # pyright: ignore[reportOptionalMemberAccess]
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def discard() -> None:
    """Send what is still to be written nowhere, so that the exit of the process is quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.stderr.flush()
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def colourless() -> bool:
    """Whether the user wants no colours (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
