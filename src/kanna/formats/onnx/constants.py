"""The constants of an ONNX model, wherever they are in it, and where their values lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from kanna._util.typed import shown
from kanna.errors import FormatError

_AGAIN = "convert again"
BITS = {
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
}
"""Bits of an element, by onnx.TensorProto.DataType; texts (8) have no external data."""


def tensors(graph: Any) -> list[Any]:
    """Every initializer and constant of a graph and of the graphs inside its nodes.

    Sparse ones are their values and their indices.
    """
    constants = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        constants += (sparse.values, sparse.indices)
    return constants + _attribute_tensors(graph.node)


def model_tensors(model: Any) -> list[Any]:
    """Every constant of a model: of its graph, its functions and what it says of training."""
    constants = tensors(model.graph)
    for function in model.functions:
        constants += _attribute_tensors(function.node)
    for training in model.training_info:
        constants += tensors(training.initialization) + tensors(training.algorithm)
    return constants


def _attribute_tensors(nodes: Iterable[Any]) -> list[Any]:
    constants: list[Any] = []
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        constants += attribute.tensors
        if attribute.HasField("t"):
            constants.append(attribute.t)
        sparse = [*attribute.sparse_tensors]
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        for pair in sparse:
            constants += (pair.values, pair.indices)
        graphs = [*attribute.graphs]
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        for inner in graphs:
            constants += tensors(inner)
    return constants


def place(graph: Path, tensor: Any) -> tuple[str, int]:
    """The file of a constant's values, and the byte in it that none of them reaches.

    Raises:
        FormatError: No place is given, or one where the values of its shape do not fit.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    if len(entries) < len(tensor.external_data):
        raise _misplaced(graph, tensor, "twice")
    try:
        offset, length = (int(entries.get(key, 0)) for key in ("offset", "length"))
    except ValueError:
        raise _misplaced(graph, tensor, "at no number") from None
    if offset < 0 or length < 0:
        raise _misplaced(graph, tensor, "before the start of its file")
    if not name:
        raise _misplaced(graph, tensor, "in no file")
    if any(size < 0 for size in tensor.dims):
        raise _misplaced(graph, tensor, f"with the shape {shown(list(tensor.dims))}")
    nbytes = -(-prod(tensor.dims) * BITS.get(tensor.data_type, 0) // 8)
    if "length" in entries and length < nbytes:
        raise _misplaced(graph, tensor, f"in {length} bytes, and its shape needs {nbytes}")
    return name, offset + max(length, nbytes)


def _misplaced(graph: Path, tensor: Any, how: str) -> FormatError:
    return FormatError(
        f"{graph} places {shown(tensor.name)} {how}",
        expected="values within the files beside the graph",
        todo=_AGAIN,
    )


def check_texts(model: Any, graph: Path) -> None:
    """Refuse a model with a text that is none: protobuf gives its bytes where a text should be.

    Raises:
        FormatError: The message and the field it is in.
    """
    for message in _messages(model):
        for field, value in _fields(message):
            if field.type != field.TYPE_STRING:
                continue
            texts = (value,) if isinstance(value, str | bytes) else value
            wrong = next((t for t in texts if not isinstance(t, str)), None)
            if wrong is not None:
                raise FormatError(
                    f"{graph} has {shown(wrong)} as {field.name} of {message.DESCRIPTOR.name}",
                    expected="a text in UTF-8",
                    todo=_AGAIN,
                )


def _messages(model: Any) -> Iterator[Any]:
    """Every message in a model, constants among them."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in _fields(message):
            if field.type == field.TYPE_MESSAGE:
                waiting += (value,) if hasattr(value, "ListFields") else value


def _fields(message: Any) -> list[tuple[Any, Any]]:
    """The fields of a message with their values; of a constant not those that hold gigabytes."""
    if message.DESCRIPTOR.name != "TensorProto":
        return message.ListFields()
    by_name = message.DESCRIPTOR.fields_by_name
    return [(by_name[n], getattr(message, n)) for n in ("name", "doc_string", "external_data")]
