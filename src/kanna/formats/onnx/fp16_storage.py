"""Weights stored in 16 bits and read as float32: the graph casts them back once, when it is loaded.

The builder's own float16 graph for the CPU spells attention out in single operators, and its
bfloat16 one has operators that the CPU does not run; stored this way, the float32 graph stays as it
is and its file takes half the bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings
from kanna.errors import EncodingError
from kanna.formats.onnx import files
from kanna.formats.overflow import largest_of
from kanna.formats.stored_file import StoredFile

_ALIGN = 4096  # so that a runtime may map each tensor
_BLOCK = 1 << 22
_KINDS = {"f16": 10, "bf16": 16}
"""ONNX's numbers of the two types."""


def halve(source: Path, out: Path, encoding: str) -> None:
    """Write the float32 graph `source`/model.onnx with f16 or bf16 matrices as `out`/model.onnx.

    Tables of angles and vectors stay as they are.

    Raises:
        EncodingError: The type does not hold a value.
    """
    from onnx import TensorProto, helper

    model = files.load(source / "model.onnx")
    casts: list[Any] = []
    with (out / "model.onnx.data").open("wb") as data:
        for tensor in model.graph.initializer:
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            known = {e.key: e.value for e in tensor.external_data}
            begin, size = int(known.get("offset", 0)), int(known["length"])
            raw = StoredFile(source / known["location"]).part(begin, begin + size)
            half = (
                tensor.data_type == TensorProto.FLOAT
                and len(tensor.dims) > 1
                and "_cache" not in tensor.name
            )
            data.write(bytes(-data.tell() % _ALIGN))
            start = data.tell()
            for at in range(0, size, _BLOCK):
                part = raw.read(at, at + _BLOCK)
                data.write(
                    (
                        _encoded(part.view(np.float32), encoding, tensor.name) if half else part
                    ).tobytes()
                )
            del tensor.external_data[:]
            for key, value in (
                ("location", "model.onnx.data"),
                ("offset", start),
                ("length", data.tell() - start),
            ):
                tensor.external_data.add(key=key, value=str(value))
            if half:
                name = tensor.name
                tensor.data_type, tensor.name = _KINDS[encoding], f"{name}.{encoding}"
                casts.append(
                    helper.make_node(
                        "Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT
                    )
                )
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    (out / "model.onnx").write_bytes(model.SerializeToString())


def _encoded(values: Any, encoding: str, name: str) -> Any:
    largest, limit = float(np.abs(values).max(initial=0)), largest_of(encoding)
    if not largest <= limit:
        raise EncodingError(
            f"{name} has values of {largest:g}",
            expected=f"at most {limit:g}, as {encoding} holds",
            todo="take onnx:bf16, or onnx:fp32",
        )
    return encodings.get(encoding).encode(values[None])
