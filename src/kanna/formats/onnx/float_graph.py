"""The float graph of a model with its values, run to see what flows between its nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanna.model import F32

PRODUCTS = ("MatMul", "Gemm")


class FloatGraph:
    """The float graph with its values, and what reads what in it."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        self.model: Any = onnx.load(str(path))
        self.values = {t.name: t for t in self.model.graph.initializer}
        self.readers: dict[str, list[Any]] = {}
        self.writer: dict[str, Any] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            for name in node.output:
                self.writer[name] = node

    def get(self, name: str) -> F32:
        """The values of a constant."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.values[name])

    def set(self, name: str, value: F32) -> None:
        """Replace the values of a constant, as float32."""
        from onnx import numpy_helper

        self.values[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))

    def products(self, excluded: Sequence[str], included: Sequence[str]) -> list[Any]:
        """Matrix products with constant weights that are to be quantized."""
        return [
            n
            for n in self.model.graph.node
            if n.op_type in PRODUCTS
            and n.input[1] in self.values
            and (not included or any(re.search(p, n.name) for p in included))
            and not any(re.search(p, n.name) for p in excluded)
        ]

    def run(
        self, feeds: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> Iterator[dict[str, F32]]:
        """Values of `names` for each feed, f32 [rows, channels]."""
        import onnx
        import onnxruntime

        wanted = list(dict.fromkeys(names))
        copy = onnx.load(str(self.path), load_external_data=False)
        own = {o.name for o in copy.graph.output}
        copy.graph.output.extend(
            onnx.helper.make_empty_tensor_value_info(n) for n in wanted if n not in own
        )
        augmented = self.path.with_name("augmented.onnx")
        onnx.save(copy, str(augmented))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # What is asked for must not be fused away.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = onnxruntime.InferenceSession(
            str(augmented), options, providers=["CPUExecutionProvider"]
        )
        for feed in feeds:
            values: list[Any] = list(session.run(wanted, dict(feed)))
            yield {n: x.reshape(-1, x.shape[-1]) for n, x in zip(wanted, values, strict=True)}
