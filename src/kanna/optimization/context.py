"""What every stage of an optimization runs with, and what it works on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kanna._util.bars import duration
from kanna._util.progress import Progress, Silent
from kanna.conversion.base import WriteOptions
from kanna.executors.parts import PartsPlace
from kanna.hardware.cpu import default_threads
from kanna.model import Model
from kanna.optimization.speed import SpeedGoal
from kanna.sources import Source

_WORTH_TELLING = 5.0
"""Seconds below which nobody waits for a stage."""


def _ignore(_: str) -> None:
    pass


def _never() -> bool:
    return False


class StageClock:
    """Seconds of every stage; each lap begins where the last one ended.

    Attributes:
        seconds: By the clock on the wall.
        cpu: Of processors, those of child processes included.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._last, self._last_cpu = time.perf_counter(), cpu_seconds()

    def restart(self) -> None:
        """Begin the next lap now."""
        self._last, self._last_cpu = time.perf_counter(), cpu_seconds()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to that of `name`."""
        now, cpu = time.perf_counter(), cpu_seconds()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 2)
        spent = max(0.0, cpu - self._last_cpu)
        self.cpu[name] = round(self.cpu.get(name, 0.0) + spent, 2)
        self._last, self._last_cpu = now, cpu


def cpu_seconds() -> float:
    """CPU seconds of this process so far, and of children: those that ended and those that run."""
    import psutil

    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            spent = child.cpu_times()
            total += spent.user + spent.system
    return total


@dataclass(slots=True, kw_only=True)
class Context:
    """How an optimization runs: its resources, where it reports, and what it has noted so far.

    Attributes:
        threads: Threads of runtimes and kernels; None lets each take its default.
        device: Where torch computes; None takes an accelerator when there is one.
        place: Where layers are measured and values are chosen; None: here.
        progress: Reports how far a stage is.
        on_message: Is given one line when a stage has ended.
        cancelled: Whether to stop; asked before every stage. Finished stages stay on the disk.
        notes: Notes of the result, in the order they were made.
        clock: Seconds of the stages.
        expected: Seconds that were predicted of a stage, by its name.
    """

    threads: int | None = None
    device: str | None = None
    place: PartsPlace | None = None
    progress: Progress = field(default_factory=Silent)
    on_message: Callable[[str], None] = _ignore
    cancelled: Callable[[], bool] = _never
    notes: list[str] = field(default_factory=list[str])
    clock: StageClock = field(default_factory=StageClock)
    expected: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def workers(self) -> int:
        """Threads of our own kernels."""
        return self.threads or default_threads()

    def note(self, *texts: str) -> None:
        """Add notes to the result; one that is there already is not repeated."""
        self.notes += [text for text in dict.fromkeys(texts) if text not in self.notes]

    def tell_time(self, stage: str, lap: str) -> None:
        """Say how long a stage took, and how long it was expected to take.

        Args:
            stage: Its name.
            lap: Its name on the clock.
        """
        predicted = self.expected.get(stage, 0.0)
        taken = self.clock.seconds.get(lap, 0.0)
        if stage in self.expected and max(predicted, taken) >= _WORTH_TELLING:
            self.on_message(f"{stage}: {duration(taken)}, {duration(predicted)} were predicted")

    def check_cancelled(self) -> None:
        """Raise KeyboardInterrupt when the run is to stop, as when a user interrupts it."""
        if self.cancelled():
            raise KeyboardInterrupt

    def running(self, progress: Progress | None = None) -> WriteOptions:
        """How conversions write in this run; `progress` takes the place of the context's own."""
        return WriteOptions(
            threads=self.workers,
            overwrite=True,
            nonfinite="refuse",
            progress=progress or self.progress,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A source, and the folder it is optimized in.

    Attributes:
        model: The source as tensors with roles.
        folder: Where every result of a stage and every artefact lies.
        statistics: The folder of calibration statistics; None before the source is calibrated.
        speed: What encodings cost of a token's time, and what is asked for; None where only bytes
            count.
        provider: The execution provider of onnxruntime that folders are for; None: its CPU.
        static: CHUNKxCONTEXT of graphs of fixed shapes; None: one for every length.
    """

    source: Source
    model: Model
    folder: Path
    context: Context
    statistics: Path | None = None
    speed: SpeedGoal | None = None
    provider: str | None = None
    static: str | None = None

    @property
    def calibrated(self) -> Path:
        """The folder of calibration statistics, where they must be there."""
        assert self.statistics is not None, "the source has not been calibrated"
        return self.statistics
