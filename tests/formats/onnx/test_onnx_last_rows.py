"""Heads that read the last rows alone: small graphs, run by onnxruntime as they are and changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kanna.formats.kept_rows import KEPT, kept_rows
from kanna.formats.onnx.last_rows import keep_last_rows

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WIDTH, VOCABULARY = 8, 24


def made(head: str, after: str) -> Any:
    """Hidden states → scaled → product → capped or cast → logits, or a sum over tokens before."""
    from onnx import TensorProto, helper, numpy_helper

    floats, rng = TensorProto.FLOAT, np.random.default_rng(0)
    nodes = [helper.make_node("Mul", ["hidden", "two"], ["normed"])]
    arrays: dict[str, Any] = {
        "two": np.float32(2.0),
        "matrix": rng.normal(size=(WIDTH, VOCABULARY)).astype(np.float32),
    }
    if head == "MatMulInteger":
        arrays["matrix"] = rng.integers(-9, 9, (WIDTH, VOCABULARY)).astype(np.int8)
        rounded = ["codes", "scale", "zero"]
        nodes += [
            helper.make_node("DynamicQuantizeLinear", ["normed"], rounded),
            helper.make_node("MatMulInteger", ["codes", "matrix", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["product"], to=floats),
        ]
    else:
        nodes.append(helper.make_node("MatMul", ["normed", "matrix"], ["product"]))
    if after == "capped":
        nodes += [
            helper.make_node("Div", ["product", "two"], ["small"]),
            helper.make_node("Tanh", ["small"], ["bent"]),
            helper.make_node("Mul", ["bent", "two"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node(after, ["product"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("hidden", floats, ["batch", "tokens", WIDTH])],
        [helper.make_tensor_value_info("logits", floats, ["batch", "tokens", VOCABULARY])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(model: Any, **inputs: Any) -> Any:
    """The logits of a graph."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], inputs)[0]


@pytest.mark.parametrize("head", ["MatMul", "MatMulInteger"])
def test_logits_are_those_of_the_last_rows(head: str) -> None:
    model = made(head, "capped")
    hidden = np.random.default_rng(1).normal(size=(1, 7, WIDTH)).astype(np.float32)
    whole = run(model, hidden=hidden)
    assert keep_last_rows(model, "logits")
    for count in (1, 3, 7):
        rows = run(model, hidden=hidden, **{KEPT: kept_rows(count)})
        assert rows.shape == (1, count, VOCABULARY)
        np.testing.assert_allclose(rows, whole[:, -count:], atol=1e-6)


def test_a_graph_of_another_end_stays_as_it_is() -> None:
    model = made("MatMul", "Softmax")
    before = model.SerializeToString()
    assert not keep_last_rows(model, "logits") and not keep_last_rows(model, "absent")
    assert model.SerializeToString() == before
