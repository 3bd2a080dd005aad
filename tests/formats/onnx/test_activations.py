"""What a graph says of the inputs of its products, and what the gate makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kanna.verification.parity import Precision, precision_words

onnx = pytest.importorskip("onnx")

from kanna.formats.onnx import activations  # noqa: E402 - needs onnx


def graph(*nodes: Any, **zeros: Any) -> Any:
    held = [onnx.numpy_helper.from_array(value, name) for name, value in zeros.items()]
    return onnx.helper.make_graph(nodes, "g", [], [], held)


def product(name: str, level: int) -> Any:
    return onnx.helper.make_node(
        "MatMulNBits", ["x"], ["y"], name=name, domain="com.microsoft", accuracy_level=level
    )


def code(zero: str) -> Any:
    return onnx.helper.make_node("QuantizeLinear", ["x", "scale", zero], ["y"])


def test_bits_of_activations_are_those_of_most_codes() -> None:
    zeros = {"wide": np.array(0, np.uint16), "narrow": np.array(0, np.int8)}
    assert activations.code_bits(graph(code("wide"), **zeros)) == 16
    assert activations.code_bits(graph(code("narrow"), **zeros)) == 8
    assert activations.code_bits(graph(code("wide"), code("wide"), code("narrow"), **zeros)) == 16
    dynamic = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    assert activations.code_bits(graph(dynamic)) == 8
    assert activations.code_bits(graph(product("/model/layers.0/mlp/up_proj/MatMul", 4))) is None


def test_products_that_read_floats_are_named() -> None:
    up, down = (f"/model/layers.{n}/mlp/{part}/MatMul" for n, part in enumerate(("up", "down")))
    assert activations.rounded_inputs(graph(product(up, 0))) == ""
    every = "inputs of products rounded to 8 bits"
    assert activations.rounded_inputs(graph(product(up, 4), product(down, 4))) == every
    one = graph(product(up, 4), product(down, 0), product("/lm_head/MatMul", 4))
    assert activations.rounded_inputs(one) == f"{every}, but not of down"
    other = "/model/layers.2/mlp/down/MatMul"
    assert activations.rounded_inputs(graph(product(up, 4), product("", 0))).endswith("of others")
    some = graph(product(up, 4), product(down, 0), product(other, 4))
    assert activations.rounded_inputs(some) == f"{every}, but not of some layers of down"


def test_the_gate_says_what_activations_have() -> None:
    assert (
        precision_words(Precision(bits=8.0, whole=8.0, activations=16))
        == "8.00 bits per weight and activations of 16"
    )
    rounded = Precision(bits=4.5, whole=4.5, inputs="inputs of products rounded to 8 bits")
    assert precision_words(rounded) == (
        "4.50 bits per weight, inputs of products rounded to 8 bits"
    )
