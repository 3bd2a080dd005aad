"""Graphs of strangers: every place and text in one is checked before anything reads by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers import genai_config
from onnx import TensorProto, helper

from kanna.errors import KannaError
from kanna.formats.onnx import FORMAT, files

SIZE = 64
"""Bytes of the file beside the graph."""


def external(**changes: Any) -> Any:
    """A constant of 16 floats whose values lie in the file beside the graph."""
    given: dict[str, Any] = {"location": "model.onnx.data", "offset": 0, "length": SIZE, **changes}
    tensor = TensorProto(
        name="w", data_type=1, dims=given.pop("dims", [16]), data_location=TensorProto.EXTERNAL
    )
    for key, value in given.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def twice() -> Any:
    tensor = external()
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


PLACES: dict[str, Callable[[Any, Any, Any], object]] = {
    "tensors": lambda made, attribute, value: attribute.tensors.append(value),
    "sparse_tensor": lambda made, attribute, value: attribute.sparse_tensor.values.CopyFrom(value),
    "graph": lambda made, attribute, value: attribute.g.initializer.append(value),
    "sparse_initializer": lambda made, attribute, value: (
        made.graph.sparse_initializer.add().values.CopyFrom(value)
    ),
    "function": lambda made, attribute, value: (
        made.functions.add().node.add().attribute.add().t.CopyFrom(value)
    ),
    "training": lambda made, attribute, value: (
        made.training_info.add().algorithm.initializer.append(value)
    ),
}
"""Where a model has constants beside those of its graph."""


def model(tensor: Any | None = None, place: str = "") -> Any:
    """A model with one constant, in the graph or elsewhere."""
    graph = helper.make_graph([helper.make_node("Add", ["a", "w"], ["b"], name="add")], "g", [], [])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    attribute = onnx.AttributeProto(name="v")
    if place:
        PLACES[place](made, attribute, tensor)
    else:
        made.graph.initializer.append(external() if tensor is None else tensor)
    made.graph.node[0].attribute.append(attribute)
    return made


def folder(place: Path, graph: bytes) -> Path:
    (place / "model.onnx").write_bytes(graph)
    (place / "model.onnx.data").write_bytes(bytes(SIZE))
    (place / "genai_config.json").write_text(json.dumps({"model": genai_config.MODEL}))
    return place


def replaced(old: bytes, new: bytes) -> bytes:
    data = model().SerializeToString()
    assert old in data
    return data.replace(old, new)


def old() -> bytes:
    made = model()
    made.opset_import[0].version = 9
    return made.SerializeToString()


def edge(*inputs: str) -> bytes:
    made = model()
    name = "/model/rope_caches_subgraph/Greater"
    made.graph.node.append(helper.make_node("Greater", list(inputs), ["c"], name=name))
    return made.SerializeToString()


OUTSIDE = ("../../secret", "/etc/passwd", "a/../../b", "")
HOSTILE: dict[str, Callable[[], bytes]] = {
    "no graph": lambda: b"\xff" * 100,
    "a length of 2^63": lambda: b"\x3a" + b"\xff" * 8 + b"\x7f",
    "messages in each other": lambda: b"\x3a\x80\x01" * 5000,
    "a text that is none": lambda: replaced(b"add", b"\xff\xfe\xfd"),
    "a location that is no text": lambda: replaced(b"model.onnx.data", b"\xff" * 15),
    "an old opset": old,
    "a place beyond the file": lambda: model(external(offset=SIZE)).SerializeToString(),
    "a length beyond the file": lambda: model(external(length=1 << 62)).SerializeToString(),
    "an offset of many digits": lambda: model(external(offset="9" * 5000)).SerializeToString(),
    "an offset below zero": lambda: model(external(offset=-1)).SerializeToString(),
    "a length below zero": lambda: model(external(length=-8)).SerializeToString(),
    "an offset that is no number": lambda: model(external(offset="x")).SerializeToString(),
    "a size below zero": lambda: model(external(dims=[-4, 4])).SerializeToString(),
    "more values than bytes": lambda: model(external(dims=[17])).SerializeToString(),
    "a huge shape": lambda: model(external(dims=[1 << 40, 1 << 40])).SerializeToString(),
    "a huge shape of no length": lambda: model(
        external(dims=[1 << 40, 1 << 40], length=None)
    ).SerializeToString(),
    "two locations": lambda: model(twice()).SerializeToString(),
    **{
        f"{name!r} of {place}": lambda name=name, place=place: model(
            external(location=name), place
        ).SerializeToString()
        for name in OUTSIDE
        for place in PLACES
    },
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_graph_is_refused(what: str, tmp_path: Path) -> None:
    place = folder(tmp_path, HOSTILE[what]())
    assert FORMAT.weights is not None
    for read in (files.read_folder, FORMAT.weights):
        with pytest.raises(KannaError) as error:
            read(place)
        assert error.value.expected or error.value.todo
        assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", OUTSIDE[:-1])
@pytest.mark.parametrize("opset", [9, 21])
def test_no_engine_gets_a_graph_that_names_a_file_elsewhere(
    name: str, opset: int, tmp_path: Path
) -> None:
    """However old the graph is: a runtime may read those too."""
    made = model(external(location=name), "sparse_initializer")
    made.opset_import[0].version = opset
    with pytest.raises(KannaError):
        files.check_names(folder(tmp_path, made.SerializeToString()), graphs=True)


@pytest.mark.parametrize(
    "inputs", [(), ("a",), ("a", "b"), ("a", "/x/-5"), ("a", "/x/²"), ("a", "/x/" + "9" * 5000)]
)
def test_an_edge_that_is_no_number(inputs: tuple[str, ...], tmp_path: Path) -> None:
    place = folder(tmp_path, edge(*inputs))
    with pytest.raises(KannaError, match="length of a text"):
        files.rope_edge(place / "model.onnx")


def test_what_is_well_is_read(tmp_path: Path) -> None:
    place = folder(tmp_path, edge("a", "/model/constants/INT64/4096"))
    assert [p.name for p in files.read_folder(place).data] == ["model.onnx.data"]
    assert files.rope_edge(place / "model.onnx") == 4096
    control = model()
    control.graph.node[0].name = "a\x1b[31m\x00"
    assert files.read_folder(folder(tmp_path, control.SerializeToString())).graph
