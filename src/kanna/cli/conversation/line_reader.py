"""Lines that people type, with editing and the ones before at the arrow keys."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

MARK = '"""'
"""Opens and closes a message of several lines."""
_PROMPT, _MORE = "> ", "… "
_KEPT_LINES = 1000


class LineReader:
    """Reads messages from standard input.

    Args:
        commands: Names that the tab key completes.
        history: A file of the lines before; None: none.

    Attributes:
        interactive: Whether somebody types.
    """

    def __init__(self, commands: Sequence[str], history: Path | None) -> None:
        self.interactive = sys.stdin.isatty()
        self._commands, self._history = commands, history
        # Where the output goes to a file, the prompt must not.
        self._edits = self.interactive and sys.stdout.isatty()
        self._readline = _editing() if self._edits else None
        if self._readline is not None:
            self._readline.set_completer(self._complete)
            self._readline.set_completer_delims(" ")
            self._readline.parse_and_bind("tab: complete")
            if history is not None:
                with suppress(OSError):
                    self._readline.read_history_file(str(history))

    def read(self) -> str | None:
        """The next message, which may be empty; None at the end of the input.

        One of several lines is no command: its slash is doubled.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        line = self._line(_PROMPT)
        if not self.interactive or line is None or not line.lstrip().startswith(MARK):
            return line
        message = self._several(line.lstrip()[len(MARK) :])
        return f"/{message}" if message.startswith("/") else message

    def close(self) -> None:
        """Keep the lines for the next time, for their owner alone to read."""
        if self._readline is None or self._history is None:
            return
        with suppress(OSError):
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))
            self._readline.set_history_length(_KEPT_LINES)
            self._readline.write_history_file(str(self._history))

    def _several(self, first: str) -> str:
        """The lines from `first` on until one ends with the mark."""
        lines = [first]
        while not lines[-1].rstrip().endswith(MARK):
            following = self._line(_MORE)
            if following is None:
                return "\n".join(lines).strip("\n")
            lines.append(following)
        lines[-1] = lines[-1].rstrip()[: -len(MARK)]
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str | None:
        if self._edits:
            try:
                return input(prompt)
            except EOFError:
                return None
        if self.interactive:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def _complete(self, text: str, state: int) -> str | None:
        matches = [name for name in self._commands if text and name.startswith(text)]
        return matches[state] if state < len(matches) else None


def _editing() -> Any:
    """The module that edits lines; None where Python has none, as on Windows."""
    with suppress(ImportError):
        return importlib.import_module("readline")
    return None
