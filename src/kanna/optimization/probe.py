"""Predictions held against the runtime: how much KL divergence each kind of tensor really costs.

Every kind is quantized alone and measured on held-out calibration text. What was measured over what
was predicted scales the costs of that kind, which corrects what a second-order view of a deep
network misses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from kanna._util.atomic import write_json
from kanna._util.progress import Progress
from kanna.optimization.measure import Measured

LIMITS = (0.2, 5.0)
SCRATCH = ".probe-"


def kind_of(name: str) -> str:
    """`ffn_down` of `blk.3.ffn_down.weight`; the embedding and the head are kinds of their own."""
    return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")


class Prober(Protocol):
    """Measures in a runtime what kinds of tensors cost, in nats of KL divergence."""

    def kinds(self) -> Mapping[str, Sequence[str]]:
        """Kind → its tensors, for all kinds that are probed."""
        ...

    def predicted(self, names: Sequence[str]) -> float:
        """What quantizing these tensors should cost."""
        ...

    def trials(self) -> AbstractContextManager[Callable[[Sequence[str]], float]]:
        """A function that measures the divergence with some tensors quantized, while it is open."""
        ...


def probe(prober: Prober, measured: Measured, path: Path, progress: Progress) -> dict[str, float]:
    """Measure every kind of tensor; returns the factor on the costs of each tensor.

    Args:
        prober: Measures.
        measured: The predictions.
        path: Results are saved here kind by kind, for the next run and the next budget.
        progress: Where to report.
    """
    results: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError, KeyError):
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] == measured.key:
            results = saved["kinds"]
    kinds = prober.kinds()
    if missing := {kind: names for kind, names in kinds.items() if kind not in results}:
        with prober.trials() as divergence:
            progress.start("probe", len(missing) + 1, "kinds")
            floor = divergence([])
            progress.advance(1, "nothing quantized")
            for kind, names in missing.items():
                results[kind] = {
                    "predicted": prober.predicted(names),
                    "measured": divergence(names) - floor,
                }
                write_json(path, {"key": measured.key, "floor": floor, "kinds": results})
                progress.advance(1, kind)
            progress.finish()
    low, high = LIMITS
    scale: dict[str, float] = {}
    for kind, names in kinds.items():
        ratio = max(results[kind]["measured"], 0.0) / max(results[kind]["predicted"], 1e-12)
        scale |= dict.fromkeys(names, min(max(ratio, low), high))
    return scale
