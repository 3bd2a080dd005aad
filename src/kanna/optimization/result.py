"""What an optimization returns."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanna.calibration import TOKENS
from kanna.comparison.rows import Row
from kanna.optimization.budget import Budget

_USUAL = {"effort": "balanced", "tokens": TOKENS}
"""What the command line has when nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeResult:
    """What was made, and the proof.

    Attributes:
        artefact: The file to use; file_bytes ≤ budget.
        kl_mean: In the real runtime, on held-out text; rival and rival_kl: the best plain preset
            within the budget.
        tuning: What tuning scales and norms came to in the runtime, and what it took; None where it
            was not tried.
        predicted: Nats of KL divergence the plan was expected to cost.
        swaps: How many were tried and kept, and the divergence before and after on the text that
            decided and on text that did not; None where none were tried.
        memory: With `memory`: the limit, the encoding of the cache and why, bytes predicted and
            measured; see docs/optimize.md.
        left: Artefacts of earlier runs in the same folder.
        seconds: By stage.
    """

    artefact: str
    file_bytes: int
    budget: int
    said: str
    bits_per_weight: float
    encodings: dict[str, int]
    predicted: float
    kl_mean: float | None
    top1: float | None
    rival: str | None
    rival_kl: float | None
    gate: str | None
    report: str
    plan: str
    statistics: str
    seconds: dict[str, float]
    swaps: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    left: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The artefacts that were made within the budget, and their proof.

    Attributes:
        rows: The searched plan, its tuned form and the largest plain preset, whichever there are.
        best: Of them.
        recommended: Its name and why.
        rival: The preset.
        plan: The file that made `best`, or the searched one.
        evaluation: On what they were evaluated.
        notes: Of that.
        story: What the report tells beyond a comparison.
    """

    rows: list[Row]
    best: Row
    rival: Row | None
    recommended: dict[str, str]
    evaluation: dict[str, Any]
    budget: Budget
    plan: Path
    predicted: float
    statistics: Path
    story: dict[str, Any]
    notes: list[str]
    tuning: dict[str, Any] | None = None


def count(tensors: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many tensors have each encoding, the most frequent first."""
    found: dict[str, int] = {}
    for tensor in tensors:
        found[tensor["encoding"]] = found.get(tensor["encoding"], 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def command(source: str | Path, out: Path, options: Mapping[str, Any]) -> str:
    """The command line that does the same again; options that say nothing are left out."""
    parts = ["kanna", "optimize", str(source), "-o", str(out)]
    for name, value in options.items():
        if value is None or value == () or value == _USUAL.get(name):
            continue
        many = value if isinstance(value, (list, tuple)) else [value]
        for one in many:
            parts += [f"--{name}", f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(parts)
