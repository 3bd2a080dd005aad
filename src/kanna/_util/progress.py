"""Progress of long work. Verbs report to a `Progress`; only the CLI draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one named stage after another."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None: ...

    def advance(self, amount: int, detail: str = "") -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Reports nowhere: the default of every verb called from Python."""

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        pass

    def advance(self, amount: int, detail: str = "") -> None:
        pass

    def finish(self) -> None:
        pass


def ends_within(progress: Progress, seconds: float) -> None:
    """Say that the stage ends after so many seconds at the latest, however much is left.

    Args:
        progress: Where progress is reported.
        seconds: From now.
    """
    tell = getattr(progress, "ends_within", None)
    if tell is not None:
        tell(seconds)


def done_before(progress: Progress, amount: int) -> None:
    """Count units that an earlier run has done: they say nothing of how fast this one is.

    Args:
        progress: Where progress is reported.
        amount: The units.
    """
    getattr(progress, "done_before", progress.advance)(amount)


def remark(progress: Progress, text: str) -> None:
    """Show lines above the bars, where what draws them has a place for lines.

    Args:
        progress: Where progress is reported.
        text: One line or more.
    """
    show = getattr(progress, "remark", None)
    if show is not None:
        show(text)
