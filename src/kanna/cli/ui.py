"""What a command says: results on stdout, everything else on stderr."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from kanna._util.bars import LINE_EVERY as LINE_EVERY
from kanna._util.bars import Bars, Lines
from kanna._util.bars import duration as duration
from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.cli import streams
from kanna.cli.settings import Settings
from kanna.errors import UsageError
from kanna.escaping import json_text, visible, visible_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


class Terminal:
    """Output of one command.

    As a context it keeps stdout clean: with --json, one object and nothing else.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._progress: Progress | None = None
        self._stdout: int | None = None
        self._remark = ""

    def __enter__(self) -> Terminal:
        # Native libraries write to file descriptor 1; with --json that would spoil the object.
        if self.settings.json and sys.stdout is sys.__stdout__:
            sys.stdout.flush()
            self._stdout = os.dup(1)
            os.dup2(2, 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close_progress()
        self._restore()

    def _restore(self) -> None:
        if self._stdout is not None:
            sys.stdout.flush()
            os.dup2(self._stdout, 1)
            os.close(self._stdout)
            self._stdout = None

    @property
    def quiet(self) -> bool:
        """Whether only the result is printed."""
        return self.settings.quiet

    def progress(self, *, memory: bool = False) -> Progress:
        """Where a verb reports.

        Bars on a terminal, a line now and then elsewhere, nothing with --quiet.
        """
        if self._progress is None:
            if self.quiet:
                self._progress = Silent()
            elif sys.stderr.isatty():
                self._progress = Bars(memory=memory, before=self._say_remark)
            else:
                self._progress = Lines(before=self._say_remark)
        return self._progress

    def close_progress(self) -> None:
        """End the progress that is shown, if any."""
        if self._progress is not None:
            self._progress.finish()
            self._progress = None

    def note(self, text: str, *, colour: str = "yellow") -> None:
        """A remark for people, on stderr; not with --quiet."""
        self._say_remark()
        if not self.quiet:
            click.secho(visible_text(text), err=True, fg=colour)

    def _say_remark(self) -> None:
        """Say what was kept until work begins: what cannot begin needs no remark."""
        remark, self._remark = self._remark, ""
        if remark:
            self.note(remark)

    def threads(self, asked: int | None) -> int:
        """The threads that were asked for, or a sensible number, with a remark if it is small."""
        from kanna.hardware.threads import choose_threads

        if asked:
            return asked
        choice = choose_threads()
        self._remark = choice.remark
        return choice.count

    def confirm(self, what: str, num_bytes: int, *, yes: bool) -> None:
        """Ask before something is removed; `yes` answers for the user.

        Raises UsageError where nobody can be asked, and click.Abort for a no.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError(f"{what}?", expected="--yes, where nobody can be asked")
        click.confirm(f"{what} ({format_size(num_bytes)})?", abort=True, err=True)

    def done(self, text: str) -> None:
        """Say on stderr that something succeeded."""
        self.note(text, colour="green")

    def result(self, result: Any, draw: Callable[[Console, dict[str, Any]], None]) -> None:
        """Print the result: its dictionary with --json, else drawn by `draw`."""
        data: dict[str, Any] = result if isinstance(result, dict) else result.to_dict()
        if self.settings.json:
            self.json(data)
            return
        self.close_progress()
        self._say_remark()
        draw(console(), data)

    def json(self, data: dict[str, Any]) -> None:
        """Print the one object that --json promises."""
        self.close_progress()
        self._say_remark()
        self._restore()
        click.echo(dumps(data))


def dumps(data: Any) -> str:
    """JSON that every parser reads: no NaN or infinity, paths as text, arrays as lists."""
    from kanna.report.write import plain

    whole = streams.is_unicode(sys.stdout)
    return json_text(plain(data), ascii_only=not whole)


def console() -> Console:
    """A console on stdout that does not cut tables when it writes to a file or a pipe."""
    from kanna.cli.screen import Screen

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Screen(width=width)


def notes(screen: Console, remarks: Iterable[str]) -> None:
    """Print what the user should know, a line each."""
    for remark in remarks:
        screen.print(f"Note: {remark}", style="yellow")


def mark(ok: bool | None) -> Text:
    """How a check went, as a sign: passed, failed, or not made."""
    from rich.text import Text

    signs = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("–", "yellow")}
    return signs[ok]


def checks(column: str, made: Iterable[dict[str, Any]]) -> Table:
    """Checks as a table: how each went, its name under `column`, and the figures."""
    rows = table("", column, "detail")
    for check in made:
        rows.add_row(mark(check["ok"]), check["name"], str(check.get("detail", "")))
    return rows


def table(*columns: str, title: str = "") -> Table:
    """A table whose columns are right-aligned when their name ends in `>`."""
    from rich import box

    from kanna.cli.screen import Rows

    made = Rows(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        right = name.endswith(">")
        made.add_column(name.removesuffix(">"), justify="right" if right else "left", no_wrap=right)
    return made


def facts(screen: Console, pairs: list[tuple[str, Any]]) -> None:
    """Print name–value pairs in two columns, leaving out the empty ones."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", [], {}):
            grid.add_row(Text(visible(name)), Text(visible(value)))
    screen.print(grid)


def number(value: Any, digits: int = 2, none: str = "–") -> str:
    """A number for a table cell; a dash where nothing was measured."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return none
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
