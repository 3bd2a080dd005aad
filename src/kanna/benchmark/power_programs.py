"""Programs of drivers and systems that print how much power is drawn, and how they are read.

`nvidia-smi --query-gpu=… -lms` prints a line of power and utilization for every GPU, as its manual
page has it; `powermetrics` of macOS prints blocks with the milliseconds that they stand for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

_INTERVAL = 100
"""Milliseconds between two samples."""
_FIRST = 5.0
"""Seconds until the first sample at most."""
_LEAST = 3
"""Samples from which on an energy is told: fewer would be an estimate."""
_ELAPSED = re.compile(r"\*\*\* Sampled system activity .*\(([\d.]+)ms elapsed\) \*\*\*")
_COMBINED = re.compile(r"Combined Power \(CPU \+ GPU \+ ANE\): ([\d.]+) (mW|W)")
_INTEL = re.compile(r"Intel energy model derived package power \(.*\): ([\d.]+)\s?(mW|W)")


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Power over a span of time.

    Attributes:
        begin, end: Seconds of `time.monotonic`.
        watts: Drawn on average.
        busy: Whether what draws it was at work; True where that is not told.
    """

    begin: float
    end: float
    watts: float
    busy: bool = True


class PowerReader(Protocol):
    """Makes samples of the lines of a program."""

    def read(self, line: str, now: float) -> PowerSample | None:
        """The sample that a line completes; None: it completes none.

        Args:
            line: Of the output.
            now: When it came.
        """
        ...


@dataclass(slots=True)
class NvidiaReader:
    """Reads `index, watts, utilization` lines; those of all GPUs together are a sample."""

    _before: float | None = None
    _watts: dict[str, float] = field(default_factory=dict[str, float])
    _busy: bool = False

    def read(self, line: str, now: float) -> PowerSample | None:
        """A round is over when the first GPU comes again; it stands for the time since the last."""
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3 or not parts[0].isdigit():
            return None
        sample: PowerSample | None = None
        if parts[0] in self._watts:
            if self._before is not None:
                watts = sum(self._watts.values())
                sample = PowerSample(self._before, now, watts, self._busy)
            self._before, self._watts, self._busy = now, {}, False
        with suppress(ValueError):  # [N/A] of a GPU that does not tell
            self._watts[parts[0]] = float(parts[1])
        self._busy |= parts[2].isdigit() and int(parts[2]) > 0
        return sample


@dataclass(slots=True)
class PowermetricsReader:
    """Reads the text of `powermetrics`: a header with a span, then the power in it."""

    _seconds: float | None = None

    def read(self, line: str, now: float) -> PowerSample | None:
        """The line of power completes the sample that its header began."""
        if (header := _ELAPSED.search(line)) is not None:
            self._seconds = float(header[1]) / 1e3
            return None
        power = _COMBINED.search(line) or _INTEL.search(line)
        if power is None or self._seconds is None:
            return None
        seconds, self._seconds = self._seconds, None
        watts = float(power[1]) / (1e3 if power[2] == "mW" else 1.0)
        return PowerSample(now - seconds, now, watts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerProgram:
    """A program that tells power.

    Attributes:
        title: What it measures, and by what.
        command: With all arguments.
        reader: Makes what reads its lines.
        whole: Whether it tells all that computes in the machine; otherwise GPUs alone.
        needs_root: Whether only root may run it.
    """

    title: str
    command: Sequence[str]
    reader: Callable[[], PowerReader]
    whole: bool
    needs_root: bool = False

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be run here; None where it can."""
        if shutil.which(self.command[0]) is None:
            return f"there is no {self.command[0]}"
        if self.needs_root and hasattr(os, "geteuid") and os.geteuid() != 0:
            return f"{self.command[0]} runs as root alone"
        return None


PROGRAMS = (
    PowerProgram(
        title="GPUs by nvidia-smi",
        command=(
            "nvidia-smi",
            "--query-gpu=index,power.draw,utilization.gpu",
            "--format=csv,noheader,nounits",
            f"-lms={_INTERVAL}",
        ),
        reader=NvidiaReader,
        whole=False,
    ),
    PowerProgram(
        title="processor, GPU and neural engine by powermetrics",
        command=(
            "powermetrics",
            "--samplers=cpu_power,gpu_power",
            f"--sample-rate={_INTERVAL}",
            "--buffer-size=0",
        ),
        reader=PowermetricsReader,
        whole=True,
        needs_root=True,
    ),
)


class PowerLog:
    """Samples of a program that runs until this is closed."""

    def __init__(self, program: PowerProgram) -> None:
        """Start the program, and wait for its first sample."""
        self.program = program
        self._samples: list[PowerSample] = []
        self._first = threading.Event()
        self._child = subprocess.Popen(
            list(program.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        threading.Thread(target=self._follow, daemon=True).start()
        self._first.wait(_FIRST)

    def _follow(self) -> None:
        reader, output = self.program.reader(), self._child.stdout
        with suppress(OSError, ValueError):  # it was closed
            for line in output or ():
                sample = reader.read(line, time.monotonic())
                if sample is not None:
                    self._samples.append(sample)
                    self._first.set()
        self._first.set()

    def joules(self, begin: float, end: float) -> tuple[float, bool] | None:
        """Energy of a span, and whether what drew it was at work.

        The last sample stands for what comes after it.

        Args:
            begin: Of the span, in seconds of `time.monotonic`.
            end: Of the span.

        Returns:
            None where there are too few samples in it.
        """
        inside = [s for s in [*self._samples] if s.end > begin and s.begin < end]
        if len(inside) < _LEAST:
            return None
        total = sum(s.watts * (min(s.end, end) - max(s.begin, begin)) for s in inside)
        total += max(0.0, end - inside[-1].end) * inside[-1].watts
        return total, any(s.busy for s in inside)

    def close(self) -> None:
        """End the program."""
        self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            with suppress(OSError, ValueError):
                self._child.stdout.close()
