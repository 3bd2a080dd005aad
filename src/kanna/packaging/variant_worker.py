"""Loads a variant of a model package in stock onnxruntime, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kanna._util.processes import answer
from kanna.errors import FormatError
from kanna.hardware import providers
from kanna.runtimes.onnx import library
from kanna.runtimes.onnx_session import open_session


def load(path: str, *, variant: str) -> dict[str, Any]:
    """Have onnxruntime read the package, and its provider load every graph of a variant.

    Args:
        path: The package.
        variant: Its name.

    Raises:
        FormatError: onnxruntime refuses the package, or a graph of it.
        MissingError: The provider of the variant is not here.
    """
    lib = library()
    try:
        info = lib.ModelPackage.open(path).get_info()
    except Exception as error:  # its exceptions share no base but Exception
        raise FormatError(f"onnxruntime refuses {path}: {error}") from error
    (component,) = info["components"]
    entry = next(one for one in component["variants"] if one["name"] == variant)
    profile = providers.get(entry["ep"])
    graphs = sorted(Path(entry["variant_directory"]).glob("*.onnx"))
    for graph in graphs:
        open_session(lib, graph, profile)
    return {"ep": entry["ep"], "graphs": [graph.name for graph in graphs]}


if __name__ == "__main__":
    sys.exit(answer(load))
