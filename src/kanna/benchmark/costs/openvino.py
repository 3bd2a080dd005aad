"""Costs of encodings in OpenVINO: products with matrices as kanna's graphs hold them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings
from kanna._util.progress import Silent
from kanna.benchmark.costs.products import product_costs
from kanna.benchmark.skeleton import Repeated, one_of_many
from kanna.formats.openvino import graphs, ir
from kanna.formats.openvino.weights import Weights
from kanna.formats.stream import fill
from kanna.model import Model
from kanna.plan import openvino as presets
from kanna.plan.types import TensorPlan
from kanna.runtimes.openvino import RUNTIME


def listed(_: Model) -> Sequence[str]:
    """Those that `optimize` chooses from."""
    return presets.CANDIDATES


def multiplier(
    encoding: str, rows: int, cols: int, *, copies: int, threads: int
) -> Callable[[int], object]:
    """Products in a graph, each with a matrix of its own; see `Multiplier`."""
    kind = encodings.get(encoding)
    entries = {
        f"w{at}": TensorPlan(
            name=f"w{at}",
            tensor=Repeated(f"w{at}", (rows, cols), kind.name, one_of_many(kind.name, cols, at)),
            encoding=kind,
        )
        for at in range(copies)
    }
    weights, graph = Weights(entries), ir.Graph()
    x = graph.parameter("x", "f32", (1, -1, cols))
    for name in entries:
        graph.add("Result", [graph.matmul(x, weights(graph, name), transposed=True)], None)
    with tempfile.TemporaryDirectory() as folder:
        compiled = _compiled(Path(folder), graph, weights, encoding, threads)
    request = compiled.create_infer_request()

    def run(tokens: int) -> object:
        values = np.random.default_rng(tokens).standard_normal((1, tokens, cols), np.float32)
        return request.infer([values], share_outputs=True)

    return run


def _compiled(folder: Path, graph: ir.Graph, weights: Weights, encoding: str, threads: int) -> Any:
    """The graph as the CPU plugin runs it, with the options of kanna's engine."""
    layout = weights.lay_out(bytes(graph.small))
    written = layout.file(folder / "products.bin")
    fill([written], threads=1, progress=Silent(), nonfinite="refuse", stage="write")
    path = folder / "products.xml"
    path.write_bytes(ir.to_xml(graph, "products", layout.places, {}))
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": presets.runtime_options([encoding], capped=False)[
            "DYNAMIC_QUANTIZATION_GROUP_SIZE"
        ],
    }
    core = RUNTIME.load().Core()
    return core.compile_model(graphs.read_made(core, path), "CPU", options)


COSTS = product_costs("openvino", multiplier, listed)
