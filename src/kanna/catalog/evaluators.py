"""Evaluators: what is measured of an artefact, and what is checked.

Those of the gate run with `kanna verify`.

`--verify` of a conversion, `compare` and `optimize` run the gate too.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import fields

from kanna.benchmark import encoders, energy
from kanna.catalog.base import Component, Kind, of_module, of_object, options

_KIND = "evaluators"
# Of these names `kanna` itself has the functions.
bench, evaluate, verify = (
    importlib.import_module(f"kanna.{name}") for name in ("benchmark", "evaluation", "verification")
)


def _find() -> Iterator[Component]:
    measured = ("windows", "context", "text")
    yield of_module(
        _KIND,
        "divergence",
        evaluate,
        "evaluate",
        options=options(evaluate.evaluate, only=measured),
        facts={
            "measures": [
                f.name for f in fields(evaluate.EvaluateResult) if f.name.startswith(_FIGURES)
            ]
        },
    )
    yield of_module(
        _KIND,
        "speed",
        bench,
        "bench",
        options=options(bench.bench, without=("paths",)),
        facts={
            "measures": [
                f.name for f in fields(bench.BenchRow) if f.name.endswith(("_s", "_tps", "_bytes"))
            ]
        },
    )
    yield of_module(_KIND, "speed-of-encoders", encoders, "measure")
    yield of_module(_KIND, "energy", energy, "EnergyMeter")
    for found in pkgutil.iter_modules(verify.__path__):
        module = importlib.import_module(f"{verify.__name__}.{found.name}")
        for name, check in inspect.getmembers(module, inspect.isfunction):
            if check.__module__ == module.__name__ and (
                name in ("verify", "same") or name.startswith("check")
            ):
                more = {"extra": getattr(module, "EXTRA", ""), "facts": {"part of": "the gate"}}
                if name in ("check", "verify"):  # what the file is for
                    yield of_module(_KIND, found.name, module, name, **more)
                else:
                    told = name.removeprefix("check_") if name.startswith("check_") else "runtime"
                    yield of_object(_KIND, told, check, **more)


_FIGURES = ("kl_", "perplexity", "top1")

KIND = Kind(find=_find)
