"""What can be tuned: an artefact that is read as a model, written again, and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from kanna._util.progress import Progress
from kanna.model import Model
from kanna.optimization.kl_scorer import F64
from kanna.optimization.tuning.training import ScaleTraining


class TuningSubject(Protocol):
    """An artefact whose scales can be tuned.

    Attributes:
        artefact: The file or folder.
        out: What the tuned one will be called.
        norms: Whether its norms can be tuned, too.
    """

    artefact: Path
    out: Path
    norms: bool

    def key(self) -> list[Any]:
        """What an earlier result must have been made of to be used again."""
        ...

    def read(self, path: Path) -> Model:
        """An artefact as a model: tensors that decode to what it holds."""
        ...

    def write(self, plan: Path, progress: Progress) -> None:
        """Write `out` by a plan that differs from that of `artefact` in its tuning alone."""
        ...

    def score(self, training: ScaleTraining, progress: Progress) -> tuple[F64, F64]:
        """Divergence of `artefact` and of `out` on each of the windows that decide, in nats."""
        ...
