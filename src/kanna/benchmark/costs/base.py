"""What measures the costs of encodings in the runtime of a format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kanna.benchmark.load import BUSY, LoadMeter
from kanna.hardware.encoding_speed import EncodingSpeeds
from kanna.model import Model
from kanna.sources import Source

LEAST_ERROR = 0.05
"""No table is said to be closer than that."""


class CostBench(Protocol):
    """Measures the costs of encodings at the shapes of one model.

    Attributes:
        usual: The encoding beside which the others are timed.
    """

    usual: str

    def fits(self, encoding: str) -> bool:
        """Whether a matrix of the model can have an encoding."""
        ...

    def base(self) -> EncodingSpeeds:
        """A table with the costs of the usual encoding."""
        ...

    def added(self, table: EncodingSpeeds, name: str) -> EncodingSpeeds:
        """The table with one more encoding."""
        ...

    def finished(self, table: EncodingSpeeds) -> EncodingSpeeds:
        """The table with its error, by the time of whole artefacts."""
        ...


def the_cpu() -> str:
    """Where runtimes multiply whose costs are of the processor alone."""
    return "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """How costs are measured for a format; a file beside this one exports one under its name.

    Attributes:
        encodings: Those of a model that `optimize` looks at.
        open: Begins to measure: a source, its model, threads, a folder for what is timed.
        require: Raises MissingError where the runtime is not installed.
        backend: The processor on which the runtime multiplies here, as a target names it.
    """

    encodings: Callable[[Model], Sequence[str]]
    open: Callable[[Source, Model, int, Path], CostBench]
    require: Callable[[], object]
    backend: Callable[[], str] = the_cpu


@dataclass(frozen=True, slots=True)
class Clock:
    """Which seconds count: those on the wall, or of the processors while others keep them busy.

    Waiting for a processor that others use is no cost of an encoding.

    Attributes:
        load: Began with what is timed.
        threads: That computed.
    """

    load: LoadMeter
    threads: int

    def choose(self) -> Callable[[tuple[float, float]], float]:
        """Takes the one or the other of seconds on the wall and of the processors."""
        others = self.load.others()
        if others is not None and others >= BUSY:
            return lambda both: both[1] / self.threads
        return lambda both: both[0]
