"""Progress of a stage during which another one runs: each gets its own time."""

from __future__ import annotations

from kanna._util.progress import Progress, remark
from kanna.optimization.context import StageClock


class LappedProgress:
    """Passes progress on, and gives the time of one kind of work to the stage of its name.

    Args:
        progress: Where it is passed on to.
        clock: Of the stages.
        around: The lap of all other work.
        inside: The name of that work in progress, and of its lap.
    """

    def __init__(self, progress: Progress, clock: StageClock, around: str, inside: str) -> None:
        self._progress, self._clock = progress, clock
        self._around, self._inside = around, inside
        self._lap = around

    def start(self, stage: str, total: int | None, unit: str = "bytes") -> None:
        """Begin work; what was before is counted."""
        self._clock.lap(self._lap)
        self._lap = self._inside if stage == self._inside else self._around
        self._progress.start(stage, total, unit)

    def advance(self, amount: int, detail: str = "") -> None:
        """Count units that are done."""
        self._progress.advance(amount, detail)

    def finish(self) -> None:
        """End work, and count it."""
        self._progress.finish()
        self._clock.lap(self._lap)
        self._lap = self._around

    def remark(self, text: str) -> None:
        """Show lines above the bars, where there is a place for them."""
        remark(self._progress, text)
