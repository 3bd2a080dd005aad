"""What is fuzzed of ONNX, MLX and OpenVINO folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import genai_config

import kanna
from fuzz import mutation
from fuzz.target import Target, every, json_file
from kanna import encodings, families
from kanna.families.views import Computed
from kanna.formats import onnx as onnx_format
from kanna.formats import openvino
from kanna.formats.onnx import files as onnx_files
from kanna.formats.openvino import ir
from kanna.formats.openvino.weights import Weights
from kanna.packaging import artefact
from kanna.plan.types import TensorPlan
from kanna.runtimes import folder_text
from kanna.serving.engines import mlx as mlx_engine
from kanna.serving.engines import onnx as onnx_engine
from kanna.serving.engines.base import EngineConfig
from kanna.sources import open_source


def _engine(folder: Path, kind: str) -> EngineConfig:
    return EngineConfig(
        name="m", engine=kind, path=str(folder), role="generate", key="k", context=64, slots=1
    )


def onnx_folder(folder: Path) -> dict[str, Target]:
    place = folder / "onnx"
    place.mkdir()
    (place / "model.onnx").write_bytes(b"")
    model = genai_config.MODEL | {"eos_token_id": [1]}
    good = {"model": model, "search": {"max_length": 64}}
    return {
        "genai_config.json": json_file(
            place / "genai_config.json",
            lambda: onnx_files.read_folder(place),
            lambda: onnx_engine.memory(_engine(place, "onnx")),
            lambda: artefact.open_artefact(place),
            good=good,
        )
    }


def graph(folder: Path) -> dict[str, Target]:
    """A model.onnx with constants of every kind beside its graph."""
    import onnx
    from onnx import helper

    place = folder / "graph"
    place.mkdir()
    (place / "model.onnx.data").write_bytes(bytes(64))

    def constant(name: str) -> Any:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[4, 4], data_location=1)
        for key, value in (("location", "model.onnx.data"), ("offset", "0"), ("length", "64")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    inner = helper.make_graph([], "inner", [], [], [constant("c")])
    nodes = [
        helper.make_node("Add", ["a", "w"], ["b"], name="add", value=constant("v")),
        helper.make_node("If", ["b"], ["d"], then_branch=inner, else_branch=inner),
        helper.make_node(
            "Greater", ["d", "/c/4096"], ["e"], name="/model/rope_caches_subgraph/Greater"
        ),
    ]
    value = helper.make_tensor_value_info("e", 1, [1, 4])
    graph = helper.make_graph(nodes, "g", [value], [value], [constant("w")])
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(constant("s"))
    sparse.indices.CopyFrom(constant("i"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    good = model.SerializeToString()
    path = place / "model.onnx"
    weights = onnx_format.FORMAT.weights
    assert weights is not None
    return {
        "model.onnx": Target(
            path=path,
            damage=lambda random: mutation.damaged_bytes(good, random, len(good)),
            read=every(
                lambda: onnx_files.read_folder(place),
                lambda: weights(place),
                lambda: onnx_files.check_names(place, graphs=True),
                lambda: onnx_files.rope_edge(path),
            ),
            good=good,
        )
    }


def mlx_folder(folder: Path, source: Path) -> dict[str, Target]:
    place = folder / "mlx"
    kanna.convert(source, place, preset="mlx:q4")
    config = place / "config.json"

    def load() -> object:
        return families.load_model(open_source(place))

    return {
        "mlx": json_file(
            config,
            load,
            lambda: mlx_engine.memory(_engine(place, "mlx")),
            lambda: folder_text.trained_context(place),
            lambda: artefact.open_artefact(place),
            lambda: kanna.inspect(place, hash=False).to_dict(),
        )
    }


def openvino_folder(folder: Path) -> dict[str, Target]:
    """A graph with matrices of every kind, and the file of their values."""
    place = folder / "openvino"
    place.mkdir()
    rows = np.ones((3, 64), np.float32)
    entries = {
        f"{name}.weight": TensorPlan(
            name=f"{name}.weight",
            tensor=Computed(f"{name}.weight", rows),
            encoding=encodings.get(name),
            method="nearest",
        )
        for name in ("nbits4g64", "nbits4g32s", "nbits8g32", "f16", "f32")
    }
    graph, weights = ir.Graph(), Weights(entries)
    for name in entries:
        weights(graph, name)
    file = weights.lay_out(bytes(graph.small))
    (place / openvino.WEIGHTS).write_bytes(bytes(file.total_bytes))
    good = ir.to_xml(graph, "small", file.places, {"kanna": {"version": "1"}})

    def read() -> None:
        for tensor in openvino.read_folder(place).tensors.values():
            tensor.rows(0, min(2, tensor.shape[0]))

    return {
        "openvino_model.xml": Target(
            path=place / openvino.MODEL,
            damage=lambda random: mutation.damaged_bytes(good, random, len(good)),
            read=read,
            good=good,
        )
    }
