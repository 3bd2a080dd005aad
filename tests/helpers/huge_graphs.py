"""Graphs of a few kilobytes that ask for terabytes, as ONNX and OpenVINO have them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HUGE = 1 << 40
"""Numbers of 4 bytes: 4.40 TB."""
_SIDE = 1 << 20


def _integers(*values: int) -> Any:
    return np.array(values, np.int64)


_COLUMN, _ROW = np.ones((_SIDE, 1), np.float32), np.ones((1, _SIDE), np.float32)
_ONE = np.ones(1, np.float32)
_SQUARE = _integers(_SIDE, HUGE // _SIDE)

Part = tuple[str, list[str], list[str], dict[str, Any]]
"""An operator, its inputs, its outputs and its attributes."""
ONNX: dict[str, tuple[dict[str, Any], list[Part]]] = {
    "ConstantOfShape": (
        {"s": _integers(HUGE)},
        [("ConstantOfShape", ["s"], ["huge"], {})],
    ),
    "Expand": ({"x": _ONE, "s": _integers(HUGE)}, [("Expand", ["x", "s"], ["huge"], {})]),
    "Tile": ({"x": _ONE, "s": _integers(HUGE)}, [("Tile", ["x", "s"], ["huge"], {})]),
    "Pad": ({"x": _ONE, "s": _integers(0, HUGE)}, [("Pad", ["x", "s"], ["huge"], {})]),
    "Range": (
        {"a": np.float32(0), "b": np.float32(HUGE), "d": np.float32(1)},
        [("Range", ["a", "b", "d"], ["huge"], {})],
    ),
    "OneHot": (
        {"x": _integers(0), "d": _integers(HUGE), "v": np.array([0, 1], np.float32)},
        [("OneHot", ["x", "d", "v"], ["huge"], {})],
    ),
    "EyeLike": (
        {"s": _SQUARE},
        [
            ("ConstantOfShape", ["s"], ["zeros"], {}),
            ("EyeLike", ["zeros"], ["huge"], {"dtype": 1}),
        ],
    ),
    "Resize": (
        {"x": np.ones((1, 1, 1, 1), np.float32), "s": _integers(1, 1, *_SQUARE)},
        [("Resize", ["x", "", "", "s"], ["huge"], {"mode": "nearest"})],
    ),
    "a sum": ({"x": _COLUMN, "y": _ROW}, [("Add", ["x", "y"], ["huge"], {})]),
    "a product": ({"x": _COLUMN, "y": _ROW}, [("MatMul", ["x", "y"], ["huge"], {})]),
    "rows again": (
        {"x": _ROW, "i": np.zeros(_SIDE, np.int64)},
        [("Gather", ["x", "i"], ["huge"], {})],
    ),
    "random numbers": ({}, [("RandomNormal", [], ["huge"], {"shape": [HUGE]})]),
    "a size that is computed": (
        {"a": _integers(2), "b": _integers(40)},
        [("Pow", ["a", "b"], ["s"], {}), ("ConstantOfShape", ["s"], ["huge"], {})],
    ),
    "a size beside that of the text": (
        {"s": _integers(HUGE)},
        [
            ("Shape", ["input_ids"], ["text"], {}),
            ("Concat", ["text", "s"], ["all"], {"axis": 0}),
            ("ConstantOfShape", ["all"], ["huge"], {}),
        ],
    ),
    "many": (
        {"s": _integers(1 << 26)},
        [
            *(("ConstantOfShape", ["s"], [f"part{i}"], {}) for i in range(200)),
            ("Sum", [f"part{i}" for i in range(200)], ["huge"], {}),
        ],
    ),
}


def onnx_folder(source: Path, out: Path, kind: str) -> Path:
    """A copy of an ONNX folder whose logits depend on something huge."""
    import onnx
    from onnx import helper, numpy_helper

    shutil.copytree(source, out)
    graph = out / "model.onnx"
    model = onnx.load(str(graph), load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["few" if name == "logits" else name for name in node.output]
    values, parts = ONNX[kind]
    for name, value in {**values, "zero": np.float32(0)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for operator, inputs, outputs, options in parts:
        model.graph.node.append(helper.make_node(operator, inputs, outputs, **options))
    for operator, inputs, outputs in (
        ("ReduceMax", ["huge"], ["most"]),
        ("Mul", ["most", "zero"], ["nothing"]),
        ("Add", ["few", "nothing"], ["logits"]),
    ):
        options = {"keepdims": 0} if operator == "ReduceMax" else {}
        model.graph.node.append(helper.make_node(operator, inputs, outputs, **options))
    graph.write_bytes(model.SerializeToString())
    return out


def _of_openvino() -> dict[str, Callable[[Any], Any]]:
    import openvino.opset13 as op

    def constant(value: Any) -> Any:
        return op.constant(np.asarray(value))

    one, huge = _ONE, _integers(HUGE)
    return {
        "Broadcast": lambda ids: op.broadcast(constant(np.float32(1)), constant(huge)),
        "Tile": lambda ids: op.tile(constant(one), constant(huge)),
        "Pad": lambda ids: op.pad(
            constant(one), constant(_integers(0)), constant(huge), "constant"
        ),
        "OneHot": lambda ids: op.one_hot(
            constant(_integers(0)),
            constant(np.int64(HUGE)),
            constant(np.float32(1)),
            constant(np.float32(0)),
            0,
        ),
        "Add": lambda ids: op.add(constant(_COLUMN), constant(_ROW)),
        "MatMul": lambda ids: op.matmul(constant(_COLUMN), constant(_ROW), False, False),
        "RandomUniform": lambda ids: op.random_uniform(
            constant(huge), constant(np.float32(0)), constant(np.float32(1)), "f32"
        ),
        "a size that is computed": lambda ids: op.broadcast(
            constant(np.float32(1)), op.power(constant(_integers(2)), constant(_integers(40)))
        ),
        "a size beside that of the text": lambda ids: op.broadcast(
            constant(np.float32(1)), op.concat([op.shape_of(ids), constant(huge)], 0)
        ),
    }


OPENVINO = (
    "Broadcast",
    "Tile",
    "Pad",
    "OneHot",
    "Add",
    "MatMul",
    "RandomUniform",
    "a size that is computed",
    "a size beside that of the text",
)


def openvino_folder(source: Path, out: Path, kind: str) -> Path:
    """A copy of an OpenVINO folder whose logits depend on something huge."""
    import openvino
    import openvino.opset13 as op

    shutil.copytree(source, out)
    graph = out / "openvino_model.xml"
    model = openvino.Core().read_model(source / graph.name)
    logits = model.output("logits").get_node().input_value(0)
    huge = _of_openvino()[kind](model.input("input_ids").get_node())
    axes = op.constant(np.arange(len(huge.output(0).get_partial_shape())))
    nothing = op.multiply(op.reduce_max(huge, axes), op.constant(np.float32(0)))
    changed = op.add(logits, nothing).output(0)
    model.output("logits").get_node().input(0).replace_source_output(changed)
    logits.get_tensor().set_names(set())
    changed.get_tensor().set_names({"logits"})
    for path in (graph, graph.with_suffix(".bin")):
        path.unlink()
    openvino.save_model(model, str(graph), compress_to_fp16=False)
    return out
