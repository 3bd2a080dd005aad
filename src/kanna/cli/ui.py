"""What a command says: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from kanna._util.peak_memory import Peak
from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.cli import streams
from kanna.cli.settings import Settings
from kanna.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_EVERY = 10.0
"""Seconds between plain progress lines where no bar can be drawn; shorter work says nothing."""


class Terminal:
    """Output of one command.

    As a context it keeps stdout clean: with --json, one object and nothing else.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._progress: Progress | None = None
        self._stdout: int | None = None

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
                self._progress = Bars(memory=memory)
            else:
                self._progress = Lines()
        return self._progress

    def close_progress(self) -> None:
        """End the progress that is shown, if any."""
        if self._progress is not None:
            self._progress.finish()
            self._progress = None

    def note(self, text: str, *, colour: str = "yellow") -> None:
        """A remark for people, on stderr; not with --quiet."""
        if not self.quiet:
            click.secho(text, err=True, fg=colour)

    def threads(self, asked: int | None) -> int:
        """The threads that were asked for, or a sensible number, with a remark if it is small."""
        from kanna.hardware.threads import choose_threads

        if asked:
            return asked
        choice = choose_threads()
        if choice.remark:
            self.note(choice.remark)
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
        draw(console(), data)

    def json(self, data: dict[str, Any]) -> None:
        """Print the one object that --json promises."""
        self.close_progress()
        self._restore()
        click.echo(dumps(data))


def dumps(data: Any) -> str:
    """JSON that every parser reads: no NaN or infinity, paths as text, arrays as lists."""
    from kanna.report.write import plain

    whole = streams.is_unicode(sys.stdout)
    return json.dumps(plain(data), indent=2, ensure_ascii=not whole, allow_nan=False)


def console() -> Console:
    """A console on stdout that does not cut tables when it writes to a file or a pipe."""
    from rich.console import Console

    class Screen(Console):
        """Leaves it to the command to end when nobody reads on."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Screen(width=width, highlight=False, soft_wrap=False)


def table(*columns: str, title: str = "") -> Table:
    """A table whose columns are right-aligned when their name ends in `>`."""
    from rich import box
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
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
            # Text, not str: values are data, and brackets in them are no markup.
            grid.add_row(name, Text(str(value)))
    screen.print(grid)


def number(value: Any, digits: int = 2, none: str = "–") -> str:
    """A number for a table cell; a dash where nothing was measured."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return none
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds for people: `0.4 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Bars:
    """A progress bar per stage, with rate and time left; `memory` adds the peak of this process."""

    def __init__(self, *, memory: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[memory]}"),
            TextColumn("[dim]{task.fields[detail]}"),
        ]
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._peak = Peak() if memory else None
        self._task: Any = None
        self._unit = "bytes"

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._unit = unit
        blank: dict[str, Any] = {"amount": "", "rate": "", "memory": "", "detail": ""}
        self._task = self._bars.add_task(stage, total=total, **blank)
        self._bars.start()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        if self._task is None:
            return
        task = self._bars._tasks[self._task]  # pyright: ignore[reportPrivateUsage]
        done = task.completed + amount
        fields: dict[str, Any] = {"amount": _amount(done, task.total, self._unit)}
        if task.elapsed and task.elapsed > 0.2:
            fields["rate"] = _rate(done / task.elapsed, self._unit)
        if detail:
            fields["detail"] = detail
        if self._peak:
            fields["memory"] = f"peak {format_size(self._peak.look())}"
        self._bars.update(self._task, completed=done, **fields)

    def finish(self) -> None:
        """End the stage."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._bars.stop()


class Lines:
    """Plain lines for logs.

    Silent for short work, a line every `LINE_EVERY` seconds of long work.
    """

    def __init__(self) -> None:
        self._stage, self._total, self._unit = "", None, "bytes"
        self._done = 0
        self._began = self._last = time.monotonic()

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        self._stage, self._total, self._unit = stage, total, unit
        self._done = 0
        self._began = self._last = time.monotonic()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        self._done += amount
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        rate = self._done / max(now - self._began, 1e-9)
        parts = [
            f"{self._stage}: {_amount(self._done, self._total, self._unit)}",
            _rate(rate, self._unit),
        ]
        if self._total and rate > 0:
            parts.append(f"{duration(max(self._total - self._done, 0) / rate)} left")
        print(", ".join(parts), file=sys.stderr, flush=True)

    def finish(self) -> None:
        """End the stage."""
        pass


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return format_size(done) + (f" of {format_size(total)}" if total else "")
    return f"{done:.0f}" + (f"/{total:.0f}" if total else "") + f" {unit}"


def _rate(rate: float, unit: str) -> str:
    return f"{format_size(rate)}/s" if unit == "bytes" else f"{rate:.1f} {unit}/s"
