"""The console of results: what it is given is data, and shown as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RichCast
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kanna.escaping import visible, visible_text


class Screen(Console):
    """A console in which a string is one line of data.

    Brackets are no markup, and a control character is shown as its code. A `Text` may have several
    lines, but none of its characters moves the cursor either.

    Args:
        width: Columns; None: those of the terminal.
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width, markup=False, highlight=False, soft_wrap=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print strings as one line of data each; they may begin with empty lines.

        Only the width of a terminal, or of COLUMNS, breaks them: a program that reads a path gets
        it whole.
        """
        read_by_program = not self.is_terminal and "COLUMNS" not in os.environ
        if read_by_program and all(isinstance(one, str) for one in objects):
            options.setdefault("soft_wrap", True)
        super().print(*map(_as_data, objects), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the parts of what is shown, whatever it was made of."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible_text(segment.text))

    def on_broken_pipe(self) -> None:
        """Leave it to the command to end when nobody reads on."""
        raise BrokenPipeError


class Rows(Table):
    """A table whose cells are data: a string is one line of it."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; a `Text` may have several lines."""
        super().add_row(*map(_as_cell, cells), **options)


def _as_data(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = value.lstrip("\n")
    return "\n" * (len(value) - len(shown)) + visible(shown)


def _as_cell(value: RenderableType | None) -> ConsoleRenderable | RichCast | None:
    return Text(visible(value)) if isinstance(value, str) else value
