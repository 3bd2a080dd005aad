"""Components of the kind `evaluators`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import fields

from kanna.benchmark import encoders, energy
from kanna.catalog.base import Component, Kind, command_options, of_module, of_object

_KIND = "evaluators"
_SUMMARIES = {
    "towers": "Tensors and settings of a vision tower, and that llama.cpp reads a picture with it",
    "divergence": (
        "KL divergence, perplexity and top-1 agreement against the source, in the real runtimes"
    ),
    "speed": (
        "Size, load time, memory and speed of files on this machine, each in its own runtime"
    ),
    "speed-of-encoders": "Load time and speed of an encoder, measured in a process of its own",
    "energy": (
        "Energy of this machine, from Linux's counters (RAPL), nvidia-smi or powermetrics; no "
        "estimate"
    ),
    "embeddings": "The checks of an encoder's ONNX folder: its vectors against the source's",
    "independent": "The reference itself, checked against an independent implementation",
    "parity": (
        "Logits of a file against the source in float32, on a short and on a long prompt, "
        "in its runtime"
    ),
    "retention": (
        "The share of what a fine-tune gained on held-out examples that a file keeps, in its "
        "runtime"
    ),
    "runtime": (
        "The file in its own runtime against the reference runtime that computes with its "
        "values, on a few tokens"
    ),
    "task_retention": (
        "The share of what a fine-tune gained in right answers to tasks that a file keeps, in its "
        "runtime"
    ),
    "tensors": "Tensors as they lie in the file, against the source's: names, shapes, values",
    "stop": (
        "Every token that ends a turn for the source ends a generation in the runtime, and a "
        "greedy answer shows it"
    ),
    "template": (
        "Conversations come out the same from the source's template and from the one in the file"
    ),
    "tokenizer": (
        "The tokenizer's metadata is carried over, and ids in the runtime equal those of the "
        "source's own tokenizer"
    ),
    "ranks": "The scores of a model that ranks, against the source's own",
    "vectors": "The checks of a GGUF that makes vectors: ids, and cosines with the source's own",
    "words": "The tokenizer of a model that makes vectors, as far as llama.cpp can be like it",
}
# Of these names `kanna` itself has the functions.
bench, evaluate, verify = (
    importlib.import_module(f"kanna.{name}") for name in ("benchmark", "evaluation", "verification")
)


def _find() -> Iterator[Component]:
    yield of_module(
        _KIND,
        "divergence",
        evaluate,
        "evaluate",
        summary=_SUMMARIES["divergence"],
        options=command_options("evaluate", evaluate.evaluate, only=("windows", "text")),
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
        summary=_SUMMARIES["speed"],
        options=command_options("bench", bench.bench, only=("repeat", "threads")),
        facts={
            "measures": [
                f.name for f in fields(bench.BenchRow) if f.name.endswith(("_s", "_tps", "_bytes"))
            ]
        },
    )
    yield of_module(
        _KIND, "speed-of-encoders", encoders, "measure", summary=_SUMMARIES["speed-of-encoders"]
    )
    yield of_module(_KIND, "energy", energy, "EnergyMeter", summary=_SUMMARIES["energy"])
    for entry in pkgutil.iter_modules(verify.__path__):
        module = importlib.import_module(f"{verify.__name__}.{entry.name}")
        for name, check in inspect.getmembers(module, inspect.isfunction):
            if check.__module__ == module.__name__ and (
                name in ("verify", "same") or name.startswith("check")
            ):
                more = {"extra": getattr(module, "EXTRA", ""), "facts": {"part of": "the gate"}}
                if name in ("check", "verify"):  # what the file is for
                    yield of_module(
                        _KIND, entry.name, module, name, summary=_SUMMARIES[entry.name], **more
                    )
                else:
                    label = name.removeprefix("check_") if name.startswith("check_") else "runtime"
                    yield of_object(_KIND, label, check, summary=_SUMMARIES[label], **more)


_FIGURES = ("kl_", "perplexity", "top1")

KIND = Kind(
    summary="Evaluators: what is measured of a file, and what is checked",
    about=(
        "The checks run with `kanna verify`. `--verify` of a conversion, `compare` and "
        "`optimize` make them too."
    ),
    find=_find,
)
