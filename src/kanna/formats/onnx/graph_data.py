"""The graph of quantized matrices in the making, and the layout of its external data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kanna.encodings.grouped.nbits import NBits
from kanna.formats.onnx.build import DATA
from kanna.formats.onnx.in_turn import in_turn
from kanna.formats.onnx.packing import Planes, join, split
from kanna.formats.stored import stored
from kanna.formats.stored_file import Part, StoredFile
from kanna.model import F32, U8, columns, num_rows
from kanna.plan.types import TensorPlan

ALIGNMENT = 64
FLOAT, FLOAT16, UINT8 = 1, 10, 2
"""Types of onnx.TensorProto."""
_ITEM = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}
"""Bytes of an element, by type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Rows of one MatMul: parts of one encoding, one under the other.

    Attributes:
        kind: The encoding.
        parts: What becomes of each of its tensors, from the first row on.
        accuracy: accuracy_level of the node.
        experts: Matrices of the stack, whose rows of several parts take turns; 0: one matrix.
    """

    kind: NBits
    parts: Sequence[TensorPlan]
    accuracy: int
    experts: int = 0

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(num_rows(p.tensor) for p in self.parts)

    @property
    def cols(self) -> int:
        """Values in a row."""
        return columns(self.parts[0].tensor)


@dataclass(slots=True)
class MatrixPlace:
    """Where a matrix goes: offsets of its planes, and of each part the rows above it.

    From one row of a part to the next there are `step` rows.
    """

    matrix: Matrix
    codes: int
    scales: int
    zeros: int
    step: int = 1
    above: dict[int, int] = field(default_factory=dict[int, int])


class GraphData:
    """Initializers of the new graph and the layout of its external data, made side by side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.initializers: list[Any] = []
        self.tensors: list[TensorPlan] = []
        self.offsets: list[int] = []
        self.places: dict[int, MatrixPlace] = {}
        self.end = 0
        self._files: dict[str, StoredFile] = {}

    def take(self, nbytes: int) -> int:
        """Reserve bytes of the file, aligned; their offset."""
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        self.end = start + nbytes
        return start

    def external(self, name: str, dtype: int, dims: Sequence[int], offset: int) -> None:
        """Add an initializer whose values lie at `offset` of the file."""
        import onnx

        nbytes = prod(dims) * _ITEM[dtype]
        tensor = onnx.TensorProto(
            name=name, data_type=dtype, dims=dims, data_location=onnx.TensorProto.EXTERNAL
        )
        for key, value in (("location", DATA), ("offset", offset), ("length", nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)

    def carry(self, old: Any) -> None:
        """An initializer as it is; its bytes move to the new file."""
        if old.data_location != 1:
            self.initializers.append(old)
            return
        data = self.old_bytes(old)
        offset = self.take(data.size)
        self.external(old.name, old.data_type, old.dims, offset)
        if data.size:
            tensor = stored(old.name, (data.size,), "i8", data)
            self._add(
                TensorPlan(
                    name=old.name, tensor=tensor, encoding=tensor.encoding, method="nearest"
                ),
                offset,
            )

    def old_bytes(self, tensor: Any) -> Part:
        """Bytes of an initializer in the external data of the float graph."""
        entries = {e.key: e.value for e in tensor.external_data}
        name = entries["location"]
        if name not in self._files:
            self._files[name] = StoredFile(self.folder / name)
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        return self._files[name].part(offset, offset + length)

    def floats(self, name: str, entry: TensorPlan) -> None:
        """A matrix of the model in float32, as Gather reads it."""
        offset = self.take(entry.nbytes)
        self.external(name, FLOAT, entry.tensor.shape, offset)
        self._add(entry, offset)

    def matrix(self, name: str, matrix: Matrix) -> MatrixPlace:
        """The planes of a matrix, as initializers name_codes, name_scales and name_zeros."""
        kind, rows, groups = matrix.kind, matrix.rows, matrix.cols // matrix.kind.group
        place = MatrixPlace(
            matrix,
            self.take(rows * groups * kind.code_bytes),
            self.take(rows * groups * kind.scale_bytes),
            self.take(rows * kind.zero_bytes(groups)),
        )
        codes, scales, zeros = _shapes(matrix, groups)
        self.external(f"{name}_codes", UINT8, codes, place.codes)
        self.external(f"{name}_scales", FLOAT16 if kind.half else FLOAT, scales, place.scales)
        if kind.zero:
            self.external(f"{name}_zeros", UINT8, zeros, place.zeros)
        if matrix.experts and len(matrix.parts) > 1:
            place.step = len(matrix.parts)
            for above, part in enumerate(matrix.parts):
                self.places[id(part)], place.above[id(part)] = place, above
            self._write(in_turn(matrix.parts), place, 0)
            return place
        above = 0
        for part in matrix.parts:
            self._write(part, place, above)
            above += num_rows(part.tensor)
        return place

    def _write(self, part: TensorPlan, place: MatrixPlace, above: int) -> None:
        self.places[id(part)], place.above[id(part)] = place, above
        self._add(part, place.codes)

    def _add(self, entry: TensorPlan, offset: int) -> None:
        self.tensors.append(entry)
        self.offsets.append(offset)

    def spread(self, entry: TensorPlan, start: int, data: U8) -> Iterable[tuple[int, U8]] | None:
        """Where the planes of rows from `start` go."""
        place = self.places.get(id(entry))
        if place is None:
            return None
        kind, at = place.matrix.kind, start + place.above[id(entry)]
        groups = place.matrix.cols // kind.group
        planes = split(kind, data)
        pieces = [
            (place.codes + at * groups * kind.code_bytes, planes.codes),
            (place.scales + at * groups * kind.scale_bytes, planes.scales),
        ]
        if planes.zeros is not None:
            pieces.append((place.zeros + at * kind.zero_bytes(groups), planes.zeros))
        return pieces


def _shapes(matrix: Matrix, groups: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of codes, scales and zeros, as the operator of a matrix or of experts takes them."""
    kind, rows = matrix.kind, matrix.rows
    zeros = kind.zero_bytes(groups)
    if not matrix.experts:
        return (rows, groups, kind.code_bytes), (rows, groups), (rows, zeros)
    stack = matrix.experts, rows // matrix.experts
    return (*stack, groups * kind.code_bytes), (*stack, groups), (*stack, zeros)


class StoredMatrix:
    """A part of a node, read from the external data row by row."""

    def __init__(self, entry: TensorPlan, place: MatrixPlace, data: StoredFile) -> None:
        self.name, self.shape, self.encoding = entry.name, tuple(entry.tensor.shape), entry.encoding
        self._place, self._data, self._above = place, data, place.above[id(entry)]

    @property
    def dtype(self) -> str:
        """Name of the encoding."""
        return self.encoding.name

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return prod(self.shape[:-1]) * self.encoding.row_bytes(self.shape[-1])

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        return self.encoding.decode(self.raw(start, stop), self.shape[-1])

    def raw(self, start: int, stop: int) -> U8:
        """Rows [start, stop) with their planes joined, uint8 [rows, row bytes]."""
        kind = self._place.matrix.kind
        groups = self.shape[-1] // kind.group

        def plane(at: int, row_bytes: int) -> U8:
            step = self._place.step
            first, last = (at + (self._above + step * row) * row_bytes for row in (start, stop - 1))
            rows = self._data.read(first, last + row_bytes).reshape(-1, row_bytes)
            return np.ascontiguousarray(rows[::step])

        codes = plane(self._place.codes, groups * kind.code_bytes)
        scales = plane(self._place.scales, groups * kind.scale_bytes)
        zeros = plane(self._place.zeros, kind.zero_bytes(groups)) if kind.zero else None
        return join(kind, Planes(codes, scales, zeros))
