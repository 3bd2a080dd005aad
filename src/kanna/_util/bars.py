"""Progress for people: bars on a terminal, a cell that changes in a notebook, lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from copy import copy
from typing import Any

from kanna._util.peak_memory import Peak
from kanna._util.progress import Progress, Silent
from kanna._util.units import format_size
from kanna.escaping import html_text, visible, visible_text

LINE_EVERY = 10.0
"""Seconds between plain progress lines where no bar can be drawn; shorter work says nothing."""


def shown(progress: Progress | None) -> Progress:
    """The progress that was given, else one that suits where Python runs.

    Bars on a terminal, a changing line in a notebook, nothing elsewhere or with KANNA_PROGRESS=0.
    """
    if progress is not None:
        return progress
    if os.environ.get("KANNA_PROGRESS", "").lower() in ("0", "no", "off", "never", "false"):
        return Silent()
    if in_notebook():
        return NotebookLine()
    return Bars() if sys.stderr.isatty() else Silent()


def beside(progress: Progress, name: str) -> Progress:
    """Progress of one of several steps, shown beside that of the others.

    Args:
        progress: Where all of them report; one that shows a stage at a time shows none of them.
        name: Of the step.
    """
    if isinstance(progress, Bars | Lines | NotebookLine):
        return progress.beside(name)
    return Silent()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive: Any = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


class NotebookLine:
    """A line under a cell that says how far a stage is; it goes away at the end."""

    def __init__(self) -> None:
        self._stage, self._total, self._unit, self._done = "", None, "bytes", 0
        self._last, self._began = 0.0, time.monotonic()
        self._display: Any = None
        self._label = ""

    def beside(self, name: str) -> NotebookLine:
        """A line below, for the stages of one of several steps."""
        one = NotebookLine()
        one._label = f"{name}: "
        return one

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        self._stage, self._total, self._unit = f"{self._label}{stage}", total, unit
        self._done, self._began = 0, time.monotonic()
        self._draw("")

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        self._done += amount
        if time.monotonic() - self._last > 0.2:
            self._draw(detail)

    def finish(self) -> None:
        """End the stage."""
        self._show("")

    def _draw(self, detail: str) -> None:
        self._last = time.monotonic()
        share = f'value="{self._done}" max="{self._total}"' if self._total else ""
        amount = _amount(self._done, self._total, self._unit)
        text = html_text(f"{self._stage}: {amount} {detail}".rstrip())
        self._show(f"<progress {share}></progress> {text}")

    def _show(self, html: str) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        show: Any = display
        if self._display is not None:
            self._display.update(HTML(html))
        elif html:
            self._display = show(HTML(html), display_id=True)


def duration(seconds: float) -> str:
    """Seconds for people: `0.4 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _nothing() -> None:
    pass


class _Pace:
    """How fast a stage goes, and when it ends.

    Attributes:
        before: Units that an earlier run has done.
        end: When the stage ends at the latest, by time.monotonic(); None: when all is done.
    """

    def __init__(self) -> None:
        self.before = 0
        self.end: float | None = None
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._began

    def rate(self, done: float) -> float:
        """Units of a second, of those that this run has done."""
        return (done - self.before) / max(self.elapsed, 1e-9)

    def left(self, done: float, total: float | None) -> float | None:
        """Seconds that are left; None where nothing tells."""
        most = None if self.end is None else max(self.end - time.monotonic(), 0.0)
        rate = self.rate(done)
        if not total or rate <= 0:
            return most
        left = max(total - done, 0) / rate
        return left if most is None else min(left, most)


class Bars:
    """A progress bar per stage, with rate and time left.

    Args:
        memory: Show the peak of this process too.
        before: Called when a stage begins, before anything is drawn.
    """

    def __init__(self, *, memory: bool = False, before: Callable[[], None] = _nothing) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns: list[Any] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[memory]}"),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        ]
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._peak = Peak() if memory else None
        self._task: Any = None
        self._unit, self._label, self._pace = "bytes", "", _Pace()
        self._before = before

    def beside(self, name: str) -> Bars:
        """A bar below, for the stages of one of several steps."""
        one = copy(self)
        one._task, one._peak, one._label = None, None, f"{name}: "
        return one

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        self._before()
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._unit = unit
        self._pace = _Pace()
        blank: dict[str, Any] = dict.fromkeys(("amount", "rate", "left", "memory", "detail"), "")
        self._task = self._bars.add_task(visible(f"{self._label}{stage}"), total=total, **blank)
        self._bars.start()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        if self._task is None:
            return
        task = self._bars._tasks[self._task]  # pyright: ignore[reportPrivateUsage]
        done = task.completed + amount
        fields: dict[str, Any] = {"amount": _amount(done, task.total, self._unit)}
        if self._pace.elapsed > 0.2:
            fields["rate"] = _rate(self._pace.rate(done), self._unit)
            left = self._pace.left(done, task.total)
            fields["left"] = "" if left is None else f"{duration(left)} left"
        if detail:
            fields["detail"] = visible(detail)
        if self._peak:
            fields["memory"] = f"peak {format_size(self._peak.look())}"
        self._bars.update(self._task, completed=done, **fields)

    def ends_within(self, seconds: float) -> None:
        """The stage ends after so many seconds at the latest."""
        self._pace.end = time.monotonic() + seconds

    def done_before(self, amount: int) -> None:
        """Count units that an earlier run has done."""
        self._pace.before += amount
        self.advance(amount)

    def finish(self) -> None:
        """End the stage."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        if not self._bars.tasks:
            self._bars.stop()

    def remark(self, text: str) -> None:
        """Show lines above the bars."""
        self._bars.console.print(visible_text(text), markup=False, highlight=False)


class Lines:
    """Plain lines for logs.

    Silent for short work, a line every `LINE_EVERY` seconds of long work.

    Args:
        before: Called when a stage begins.
    """

    def __init__(self, *, before: Callable[[], None] = _nothing) -> None:
        self._before = before
        self._stage, self._total, self._unit = "", None, "bytes"
        self._done, self._label, self._pace = 0, "", _Pace()
        self._last = time.monotonic()

    def beside(self, name: str) -> Lines:
        """Lines about one of several steps, which begin with its name."""
        one = Lines(before=self._before)
        one._label = f"{name}: "
        return one

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a stage of `total` units."""
        self._before()
        self._stage, self._total, self._unit = f"{self._label}{stage}", total, unit
        self._done, self._pace = 0, _Pace()
        self._last = time.monotonic()

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        self._done += amount
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        parts = [
            f"{visible(self._stage)}: {_amount(self._done, self._total, self._unit)}",
            _rate(self._pace.rate(self._done), self._unit),
        ]
        left = self._pace.left(self._done, self._total)
        parts += [] if left is None else [f"{duration(left)} left"]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def ends_within(self, seconds: float) -> None:
        """The stage ends after so many seconds at the latest."""
        self._pace.end = time.monotonic() + seconds

    def done_before(self, amount: int) -> None:
        """Count units that an earlier run has done."""
        self._pace.before += amount
        self._done += amount

    def finish(self) -> None:
        """End the stage."""
        pass

    def remark(self, text: str) -> None:
        """Show lines."""
        print(visible_text(text), file=sys.stderr, flush=True)


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return format_size(done) + (f" of {format_size(total)}" if total else "")
    return f"{done:.0f}" + (f"/{total:.0f}" if total else "") + f" {unit}"


def _rate(rate: float, unit: str) -> str:
    return f"{format_size(rate)}/s" if unit == "bytes" else f"{rate:.1f} {unit}/s"
