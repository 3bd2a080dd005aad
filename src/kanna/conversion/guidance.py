"""What a request says of choosing values: importance matrix, statistics, method."""

from __future__ import annotations

from dataclasses import dataclass

from kanna import methods
from kanna.calibration import imatrix, statistics
from kanna.calibration.imatrix import Imatrix
from kanna.calibration.statistics import Statistics
from kanna.conversion.base import Request
from kanna.errors import UsageError
from kanna.model import Model
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Informed:
    """imatrix, statistics: None where none was given.

    Attributes:
        method: `gptq` with statistics, else `search`, unless named.
    """

    imatrix: Imatrix | None
    statistics: Statistics | None
    method: str

    @property
    def unusual(self) -> str | None:
        """The method where it is not the one that would be taken anyway, as the command line names it."""
        return None if self.method == _usual(self.statistics) else self.method


def _usual(known: Statistics | None) -> str:
    return "gptq" if known else "search"


def informed(source: Source, model: Model, request: Request) -> Informed:
    """Read what the request names.

    UsageError for statistics of another model or a method that lacks them.
    """
    matrix = imatrix.read(request.imatrix) if request.imatrix is not None else None
    known = statistics.read(request.statistics) if request.statistics is not None else None
    if known:
        known.check(model)
    method = request.method or _usual(known)
    if methods.get(method).needs_second_moment and not known:
        raise UsageError(
            f"the method {method} needs statistics",
            expected="--statistics FOLDER",
            todo=f"kanna calibrate {source.given} -o statistics",
        )
    return Informed(imatrix=matrix, statistics=known, method=method)
