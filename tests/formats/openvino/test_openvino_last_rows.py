"""Heads that read the last rows alone: small graphs, run by OpenVINO as they are and changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.openvino.last_rows import keep_last_rows

openvino = pytest.importorskip("openvino")

WIDTH, VOCABULARY = 8, 24
HIDDEN = np.random.default_rng(1).normal(size=(1, 7, WIDTH)).astype(np.float32)


def made(ends: str) -> Any:
    """Hidden states → product → capped or a softmax → logits."""
    ops = openvino.opset13
    hidden = ops.parameter([-1, -1, WIDTH], np.float32, name="hidden")
    hidden.output(0).set_names({"hidden"})
    matrix = np.random.default_rng(0).normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    product = ops.matmul(hidden, ops.constant(matrix), False, True)
    if ends == "capped":
        two = ops.constant(np.float32(2.0))
        logits = ops.multiply(ops.tanh(ops.divide(product, two)), two)
    else:
        logits = ops.softmax(product, 1)
    logits.output(0).set_names({"logits"})
    return openvino.Model([ops.result(logits)], [hidden], "decoder")


def run(graph: Any, **inputs: Any) -> Any:
    """The logits of a graph."""
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled.create_infer_request().infer(inputs)["logits"])


def test_logits_are_those_of_the_last_rows() -> None:
    graph = made("capped")
    whole = run(graph, hidden=HIDDEN)
    assert keep_last_rows(openvino, graph, "logits")
    for count in (1, 3, 7):
        rows = run(graph, hidden=HIDDEN, **{KEPT: kept_rows(count)})
        assert rows.shape == (1, count, VOCABULARY)
        np.testing.assert_allclose(rows, whole[:, -count:], atol=1e-6)


def test_a_graph_of_another_end_stays_as_it_is() -> None:
    graph = made("over tokens")
    assert not keep_last_rows(openvino, graph, "logits")
    assert {name for port in graph.inputs for name in port.names} == {"hidden"}
