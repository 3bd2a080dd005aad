"""OpenVINO's IR in the making: operations with their shapes, and the bytes of small constants.

The file is XML of version 11: layers with their attributes, types and shapes, and edges between
their ports. Facts from docs.openvino.ai, "OpenVINO IR format" and "Available operation sets".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from kanna.escaping import visible_text

Shape = tuple[int, ...]
"""Sizes of the axes; -1: known when it runs."""

PRECISIONS = {
    "f32": "FP32",
    "f16": "FP16",
    "i64": "I64",
    "i32": "I32",
    "u8": "U8",
    "i8": "I8",
    "u4": "U4",
    "i4": "I4",
    "nf4": "NF4",
    "boolean": "BOOL",
}
"""Element types as attributes have them → as ports have them."""
BITS = {"f32": 32, "f16": 16, "i64": 64, "i32": 32, "u8": 8, "i8": 8, "u4": 4, "i4": 4, "nf4": 4}
"""Bits of an element."""
_NUMPY = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}
_BROADCAST = {"auto_broadcast": "numpy"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """What a layer gives: its number, element type and shape."""

    layer: int
    port: int
    kind: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation.

    Attributes:
        inputs: What it reads.
        output: What it gives; None of a sink.
        names: Names of the output, as callers know it.
        marks: Attributes for the runtime (`rt_info`), such as `decompression`.
    """

    name: str
    kind: str
    version: str
    attributes: Mapping[str, str]
    inputs: Sequence[Value]
    output: Value | None
    names: str = ""
    marks: Sequence[str] = ()

    @property
    def is_weight(self) -> bool:
        """Whether it is a constant whose values are written later."""
        return self.kind == "Const" and "offset" not in self.attributes


@dataclass(slots=True)
class Graph:
    """A graph in the making; every method of an operation gives its output.

    Attributes:
        layers: In order: each one reads from those before it.
        small: Bytes of small constants, one after the other.
    """

    layers: list[Operation] = field(default_factory=list[Operation])
    small: bytearray = field(default_factory=bytearray)
    _known: dict[tuple[str, Shape, bytes], Value] = field(
        default_factory=dict[tuple[str, Shape, bytes], Value]
    )

    def add(
        self,
        kind: str,
        inputs: Sequence[Value],
        output: tuple[str, Shape] | None,
        *,
        version: str = "opset1",
        attributes: Mapping[str, Any] | None = None,
        name: str = "",
        names: str = "",
        marks: Sequence[str] = (),
    ) -> Value:
        """Add a layer; what it gives, or for a sink a value that nothing may read."""
        number = len(self.layers)
        value = Value(
            layer=number,
            port=len(inputs),
            kind=output[0] if output else "",
            shape=output[1] if output else (),
        )
        self.layers.append(
            Operation(
                name=name or f"{kind}_{number}",
                kind=kind,
                version=version,
                attributes={k: _attribute(v) for k, v in (attributes or {}).items()},
                inputs=inputs,
                output=value if output else None,
                names=names,
                marks=marks,
            )
        )
        return value

    def parameter(self, name: str, kind: str, shape: Shape) -> Value:
        """An input of the model."""
        about = {"shape": _dims(shape), "element_type": kind}
        return self.add("Parameter", [], (kind, shape), attributes=about, name=name, names=name)

    def constant(self, values: NDArray[Any] | Sequence[Any] | float, kind: str) -> Value:
        """A small constant; the same one is stored once."""
        array = np.asarray(values, _NUMPY[kind])
        data, shape = array.tobytes(), tuple(array.shape)
        if (known := self._known.get((kind, shape, data))) is not None:
            return known
        self.small += b"\0" * (-len(self.small) % 8)
        about = {
            "element_type": kind,
            "shape": _dims(shape),
            "offset": len(self.small),
            "size": len(data),
        }
        self.small += data
        value = self.add("Const", [], (kind, shape), attributes=about)
        self._known[kind, shape, data] = value
        return value

    def weight(self, name: str, kind: str, shape: Shape) -> Value:
        """A constant of that name, whose values are written later."""
        about = {"element_type": kind, "shape": _dims(shape)}
        return self.add("Const", [], (kind, shape), attributes=about, name=name)

    def named(self, x: Value, names: str) -> Value:
        """`x`, whose output callers know by `names` from now on."""
        self.layers[x.layer] = replace(self.layers[x.layer], names=names)
        return x

    def convert(self, x: Value, kind: str, *, marks: Sequence[str] = ()) -> Value:
        """`x` in another element type."""
        about = {"destination_type": kind}
        return self.add("Convert", [x], (kind, x.shape), attributes=about, marks=marks)

    def binary(
        self, kind: str, a: Value, b: Value, *, result: str = "", version: str = "opset1"
    ) -> Value:
        """An operation on two values of one type that broadcasts as numpy does."""
        shape = broadcast(a.shape, b.shape)
        about: dict[str, Any] = dict(_BROADCAST)
        if kind == "Divide":
            about["m_pythondiv"] = True
        output = (result or a.kind, shape)
        return self.add(kind, [a, b], output, version=version, attributes=about)

    def unary(self, kind: str, x: Value, *, version: str = "opset1") -> Value:
        """An operation on every element."""
        return self.add(kind, [x], (x.kind, x.shape), version=version)

    def matmul(self, a: Value, b: Value, *, transposed: bool) -> Value:
        """`a` times `b`, whose last two axes are exchanged where `transposed`."""
        last = b.shape[-2] if transposed else b.shape[-1]
        shape = (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], last)
        about = {"transpose_a": False, "transpose_b": transposed}
        return self.add("MatMul", [a, b], (a.kind, shape), attributes=about)

    def reshape(self, x: Value, sizes: Sequence[int], shape: Shape) -> Value:
        """`x` in other axes; a size 0 keeps that of the axis, -1 is what is left."""
        about = {"special_zero": True}
        inputs = [x, self.constant(sizes, "i64")]
        return self.add("Reshape", inputs, (x.kind, shape), attributes=about)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """The axes of `x` in another order."""
        shape = tuple(x.shape[axis] for axis in order)
        return self.add("Transpose", [x, self.constant(order, "i64")], (x.kind, shape))

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """`x` with axes of size 1 at those places of the result."""
        sizes = iter(x.shape)
        rank = len(x.shape) + len(axes)
        shape = tuple(1 if axis in axes else next(sizes) for axis in range(rank))
        return self.add("Unsqueeze", [x, self.constant(axes, "i64")], (x.kind, shape))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """Parts one after the other along an axis."""
        sizes = [p.shape[axis] for p in parts]
        shape = list(parts[0].shape)
        shape[axis] = -1 if -1 in sizes else sum(sizes)
        about = {"axis": axis}
        return self.add("Concat", parts, (parts[0].kind, tuple(shape)), attributes=about)

    def slice(self, x: Value, start: int, stop: int, size: int) -> Value:
        """Elements [start, stop) of the last axis, `size` of them."""
        ends = [self.constant([number], "i64") for number in (start, stop, 1, len(x.shape) - 1)]
        shape = (*x.shape[:-1], size)
        return self.add("Slice", [x, *ends], (x.kind, shape), version="opset8")

    def gather(self, x: Value, at: Value, axis: int) -> Value:
        """Elements of `x` along an axis, at the places in `at`."""
        shape = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
        inputs = [x, at, self.constant(axis, "i64")]
        about = {"batch_dims": 0}
        return self.add("Gather", inputs, (x.kind, shape), version="opset8", attributes=about)

    def size_of(self, x: Value, axis: int) -> Value:
        """The size of one axis, i64 [1]."""
        about = {"output_type": "i64"}
        inputs = [x]
        shape = self.add(
            "ShapeOf", inputs, ("i64", (len(x.shape),)), version="opset3", attributes=about
        )
        return self.gather(shape, self.constant([axis], "i64"), 0)

    def broadcast_to(self, x: Value, target: Value, shape: Shape, *, mode: str) -> Value:
        """`x` repeated to the sizes in `target`; with mode `bidirectional` along either."""
        return self.add(
            "Broadcast", [x, target], (x.kind, shape), version="opset3", attributes={"mode": mode}
        )


def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape of an operation on two values, aligned at the last axis."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    return tuple(y if x == 1 else x if y == 1 or x != -1 else y for x, y in pairs)


def nbytes(kind: str, shape: Shape) -> int:
    """Bytes of a constant."""
    return -(-prod(shape) * BITS[kind] // 8)


def _dims(shape: Shape) -> str:
    return ", ".join("?" if size < 0 else str(size) for size in shape)


def _attribute(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_xml(graph: Graph, name: str, places: Mapping[str, int], about: Mapping[str, Any]) -> bytes:
    """The graph as a file.

    Args:
        graph: The graph.
        name: Of the model.
        places: Where in the file of weights each one lies, by its name.
        about: What the model says of itself (`rt_info`): texts by name, or names below a name.
    """
    lines = ['<?xml version="1.0"?>', f'<net name={quoteattr(name)} version="11">', "<layers>"]
    edges: list[str] = []
    for number, layer in enumerate(graph.layers):
        lines += _layer(number, layer, places)
        edges += [
            f'<edge from-layer="{v.layer}" from-port="{v.port}" to-layer="{number}"'
            f' to-port="{port}" />'
            for port, v in enumerate(layer.inputs)
        ]
    lines += ["</layers>", "<edges>", *edges, "</edges>", "<rt_info>", *_about(about)]
    lines += ["</rt_info>", "</net>", ""]
    return "\n".join(lines).encode()


def _layer(number: int, layer: Operation, places: Mapping[str, int]) -> list[str]:
    head = f'<layer id="{number}" name={quoteattr(layer.name)} type="{layer.kind}"'
    lines = [f'{head} version="{layer.version}">']
    attributes = dict(layer.attributes)
    if layer.is_weight and layer.output is not None:
        size = nbytes(layer.output.kind, layer.output.shape)
        attributes |= {"offset": str(places[layer.name]), "size": str(size)}
    if attributes:
        fields = " ".join(f"{k}={quoteattr(v)}" for k, v in attributes.items())
        lines.append(f"<data {fields} />")
    if layer.marks:
        marks = "".join(f'<attribute name="{mark}" version="0" />' for mark in layer.marks)
        lines.append(f"<rt_info>{marks}</rt_info>")
    if layer.inputs:
        ports = "".join(_port(port, v) for port, v in enumerate(layer.inputs))
        lines.append(f"<input>{ports}</input>")
    if layer.output is not None:
        lines.append(f"<output>{_port(len(layer.inputs), layer.output, layer.names)}</output>")
    return [*lines, "</layer>"]


def _port(number: int, value: Value, names: str = "") -> str:
    named = f" names={quoteattr(names)}" if names else ""
    sizes = "".join(f"<dim>{size}</dim>" for size in value.shape)
    return f'<port id="{number}" precision="{PRECISIONS[value.kind]}"{named}>{sizes}</port>'


def _about(about: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in about.items():
        if isinstance(value, Mapping):
            lines += [f"<{name}>", *_about(value), f"</{name}>"]
        else:
            lines.append(f"<{name} value={quoteattr(visible_text(str(value)))} />")
    return lines
