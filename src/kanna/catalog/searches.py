"""Searches: how far `kanna optimize` goes, named by `--effort`, and the steps that it goes through."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from kanna.catalog.base import Component, Kind, of_module, options
from kanna.optimization import EFFORTS, EXTRA, optimize

_KIND = "searches"
_STEPS = (
    "optimization.measure",
    "optimization.probe",
    "optimization.onnx_probe",
    "plan.allocate",
    "optimization.local_search",
    "optimization.tuning.distill",
    "optimization.contest",
)


def _find() -> Iterator[Component]:
    budgets = options(
        optimize, only=("size", "bpw", "like", "memory", "context", "keep", "exclude", "rules")
    )
    for name, effort in EFFORTS.items():
        yield Component(
            kind=_KIND,
            name=name,
            summary=effort.summary,
            where="kanna.optimization:EFFORTS",
            extra=EXTRA,
            options=budgets,
            facts={"swaps tried at most": effort.swaps},
        )
    for step in _STEPS:
        module = importlib.import_module(f"kanna.{step}")
        name = step.rpartition(".")[2].replace("_", "-")
        yield of_module(_KIND, name, module, extra=EXTRA, facts={"kind": "step"})


KIND = Kind(find=_find)
