"""What guides the choice of values: importance matrix, statistics, method."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kanna import methods, provenance
from kanna.calibration import imatrix as imatrix_files
from kanna.calibration import statistics as statistics_files
from kanna.calibration.imatrix import Imatrix
from kanna.calibration.statistics import Statistics
from kanna.errors import UsageError
from kanna.methods import device as devices
from kanna.methods.hessian import SecondMoment
from kanna.model import F32, Model
from kanna.plan import Resolved, TensorPlan
from kanna.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """What is known of the inputs of matrices, and how values are chosen by it.

    Attributes:
        imatrix: llama.cpp's importance matrix, or None.
        statistics: Calibrated statistics, or None.
        method: `gptq` with statistics, else `search`, unless another was named.
        device: Where `gptq` runs, as it was named; None: it was not.
    """

    imatrix: Imatrix | None = None
    statistics: Statistics | None = None
    method: str = "search"
    device: str | None = None

    @property
    def weights(self) -> Mapping[str, F32] | None:
        """Importance of columns by tensor name, or None."""
        known = self.imatrix or self.statistics
        return known.weights if known else None

    @property
    def second_moments(self) -> Callable[[str], SecondMoment | None] | None:
        """Second moments of the inputs of a tensor, or None."""
        return self.statistics.second_moment if self.statistics else None

    @property
    def unusual_method(self) -> str | None:
        """The method where it is not the one that would be taken anyway."""
        return None if self.method == _usual(self.statistics) else self.method

    def provenance_file(
        self, model: Model, source: Source, resolved: Resolved, command: str
    ) -> bytes:
        """What `provenance.FILE` of a folder holds: how it was made.

        Args:
            model: What was converted.
            source: Where it came from.
            resolved: The plan, tensor by tensor.
            command: The command that makes the folder again.
        """
        keys = provenance.keys(
            model,
            source,
            resolved,
            hashes=source.hashes(),
            command=command,
            imatrix=self.imatrix,
            statistics=self.statistics,
        )
        own = {k: v.value for k, v in keys.items() if k.startswith("kanna.")}
        return (json.dumps(own, indent=2) + "\n").encode()

    def notes(self, entries: Iterable[TensorPlan]) -> list[str]:
        """What the user must know of what was given and does not count everywhere.

        Args:
            entries: What becomes of each tensor, under its name in GGUF.
        """
        entries = list(entries)
        return self._unknown_encodings(entries) + self._other_names(entries)

    def _unknown_encodings(self, entries: list[TensorPlan]) -> list[str]:
        """Of matrices whose encoding the method does not know."""
        method = methods.get(self.method)
        if not method.needs_second_moment:
            return []
        searched = [e for e in entries if e.encoding.block > 1 and not method.knows(e.encoding)]
        if not searched:
            return []
        labels = ", ".join(sorted({entry.encoding.label for entry in searched}))
        return [
            f"{method.name} does not know {labels}: values of {_some([e.name for e in searched])} "
            "are chosen by search, with the statistics' importances of columns alone"
        ]

    def _other_names(self, entries: list[TensorPlan]) -> list[str]:
        """Of an importance matrix that has holes, or is of a larger model."""
        if self.imatrix is None:
            return []
        known = {e.name for e in entries}
        # llama-imatrix measures neither of these unless it is asked to.
        usual = {"token_embd.weight", "output.weight"}
        matrices = [e for e in entries if e.encoding.block > 1 and e.name not in usual]
        holes = [e.name for e in matrices if e.name not in self.imatrix.weights]
        others = [n for n in self.imatrix.weights if n not in known]
        notes: list[str] = []
        if holes:
            notes.append(
                f"{self.imatrix.path.name} has no entry for {_some(holes)} of {len(matrices)} "
                "matrices: the importance of their columns is guessed from the model"
            )
        if others:
            notes.append(
                f"{self.imatrix.path.name} has entries for {_some(others)} that this model has not:"
                " it was measured on another model, or on another version of this one"
            )
        return notes

    @property
    def options(self) -> dict[str, object]:
        """What the command line says of it."""
        return {
            "imatrix": self.imatrix.path if self.imatrix else None,
            "statistics": self.statistics.folder if self.statistics else None,
            "method": self.unusual_method,
            "device": self.device,
        }


def _some(names: list[str]) -> str:
    """How many, and the first of them."""
    return f"{len(names)} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"


def _usual(known: Statistics | None) -> str:
    return "gptq" if known else "search"


def read_guidance(
    source: Source,
    model: Model,
    *,
    imatrix: str | Path | None = None,
    statistics: str | Path | None = None,
    method: str | None = None,
    device: str | None = None,
) -> Guidance:
    """Read an importance matrix or statistics.

    Args:
        source: What is converted.
        model: The same as a model.
        imatrix: llama.cpp's importance matrix.
        statistics: A folder of statistics.
        method: How values are chosen; None: `gptq` with statistics, else `search`.
        device: Where `gptq` runs: `cpu`, `cuda` or `mps`; None: an accelerator when there is one.

    Raises:
        UsageError: The statistics are of another model, the method lacks them, or there is no such
            device here.
    """
    matrix = imatrix_files.read(imatrix) if imatrix is not None else None
    known = statistics_files.read(statistics) if statistics is not None else None
    if known:
        known.check(model)
        known.feedback_device = devices.pick(device)
    method = method or _usual(known)
    if methods.get(method).needs_second_moment and not known:
        raise UsageError(
            f"the method {method} needs statistics",
            expected="--statistics FOLDER",
            todo=f"kanna calibrate {source.given} -o statistics",
        )
    return Guidance(
        imatrix=matrix, statistics=known, method=method, device=device if known else None
    )
