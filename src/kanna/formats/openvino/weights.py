"""Weights in a graph, and their places in the file of weights.

A matrix of codes is two or three constants (groups.py), of codes, zeros and scales, and the
operations that OpenVINO keeps compressed: codes → Convert → Subtract zeros → Multiply scales →
Reshape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from kanna.formats.openvino.groups import CodeGroups, groups_of
from kanna.formats.openvino.ir import Graph, Shape, Value, nbytes
from kanna.formats.stream import File
from kanna.model import U8, columns, num_rows
from kanna.plan.types import TensorPlan

ALIGNMENT = 64
DECOMPRESSION = ("decompression",)
SCALE, ROW_SCALE, ZERO = "/scale", "/row_scale", "/zero_point"
"""What follows the name of a matrix in those of its other constants."""
_FLOATS = ("f32", "f16")


def holds(name: str) -> bool:
    """Whether a graph can hold matrices of an encoding."""
    return name in _FLOATS or groups_of(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planes:
    """Where the parts of a matrix begin in the file; `zeros` -1 where there are none."""

    kind: CodeGroups
    groups: int
    codes: int
    scales: int
    zeros: int


@dataclass(slots=True)
class Weights:
    """The tensors of a graph: adds them to it, then says where in a file their bytes go.

    Attributes:
        entries: What becomes of each tensor, by its Hugging Face name.
    """

    entries: Mapping[str, TensorPlan]
    _constants: dict[str, tuple[str, Shape]] = field(default_factory=dict[str, tuple[str, Shape]])
    _added: list[str] = field(default_factory=list[str])

    def __call__(self, graph: Graph, name: str) -> Value:
        """Add a tensor to `graph`; its values as f32."""
        entry = self.entries[name]
        self._added.append(name)
        shape: Shape = tuple(entry.tensor.shape)
        kind = groups_of(entry.encoding.name)
        if kind is not None:
            return self._matrix(graph, name, kind, shape)
        x = self._constant(graph, name, entry.encoding.name, shape)
        return x if x.kind == "f32" else graph.convert(x, "f32", marks=DECOMPRESSION)

    def _constant(self, graph: Graph, name: str, kind: str, shape: Shape) -> Value:
        self._constants[name] = (kind, shape)
        return graph.weight(name, kind, shape)

    def _matrix(self, graph: Graph, name: str, kind: CodeGroups, shape: Shape) -> Value:
        rows, cols = shape
        groups = kind.count(cols)
        one = groups == 1
        wide: Shape = (rows, cols) if one else (rows, groups, kind.group)
        narrow: Shape = (rows, 1) if one else (rows, groups, 1)
        x = self._constant(graph, name, kind.code, wide)
        x = graph.convert(x, "f16")
        if kind.zero:
            zero = self._constant(graph, name + ZERO, kind.code, narrow)
            x = graph.binary("Subtract", x, graph.convert(zero, "f16"))
        scale = self._constant(graph, name + _scale_of(kind), "f16", narrow)
        x = graph.binary("Multiply", x, scale)
        if not one:
            x = graph.reshape(x, [rows, cols], (rows, cols))
        return graph.convert(x, "f32")

    def lay_out(self, small: bytes) -> WeightsFile:
        """Places in a file that begins with the bytes of small constants."""
        places: dict[str, int] = {}
        end = len(small)
        for key, (kind, shape) in self._constants.items():
            places[key] = -(-end // ALIGNMENT) * ALIGNMENT
            end = places[key] + nbytes(kind, shape)
        planes: dict[str, _Planes] = {}
        for name in self._added:
            if (kind := groups_of(self.entries[name].encoding.name)) is not None:
                planes[name] = _Planes(
                    kind=kind,
                    groups=kind.count(columns(self.entries[name].tensor)),
                    codes=places[name],
                    scales=places[name + _scale_of(kind)],
                    zeros=places.get(name + ZERO, -1),
                )
        return WeightsFile(
            small=small,
            tensors=[self.entries[name] for name in self._added],
            places=places,
            planes=planes,
            total_bytes=end,
        )


@dataclass(slots=True, kw_only=True)
class WeightsFile:
    """The file of weights, laid out.

    Attributes:
        small: Its first bytes.
        tensors: What becomes of each tensor, in order.
        places: Where each constant begins.
        total_bytes: Of the file.
    """

    small: bytes
    tensors: Sequence[TensorPlan]
    places: Mapping[str, int]
    planes: Mapping[str, _Planes]
    total_bytes: int
    _rest: dict[str, U8] = field(default_factory=dict[str, U8])
    _lock: Lock = field(default_factory=Lock)

    def file(self, path: Path) -> File:
        """The file to write at `path`."""
        return File(
            path=path,
            header=self.small,
            offsets=[self.places[entry.name] for entry in self.tensors],
            tensors=self.tensors,
            total_bytes=self.total_bytes,
            spread=self._spread,
            late=self._late,
        )

    def _spread(self, entry: TensorPlan, start: int, data: U8) -> Iterable[tuple[int, U8]] | None:
        """Where the parts of encoded rows from `start` go."""
        planes = self.planes.get(entry.name)
        if planes is None:
            return None
        kind, groups = planes.kind, planes.groups
        codes, scales, zeros = kind.split(data)
        pieces = [
            (planes.codes + start * codes.shape[1], codes),
            (planes.scales + start * scales.shape[1], scales),
        ]
        if zeros is not None:
            flat = zeros.reshape(-1)
            if kind.bits == 4 and groups % 2:
                self._keep(entry, start * groups, flat)
            else:
                packed = flat if kind.bits == 8 else _nibbles(flat)
                pieces.append((planes.zeros + start * groups * kind.bits // 8, packed))
        return pieces

    def _keep(self, entry: TensorPlan, first: int, zeros: U8) -> None:
        """Zeros of rows that end in the middle of a byte: written when all of them are there."""
        with self._lock:
            if entry.name not in self._rest:
                groups = self.planes[entry.name].groups
                self._rest[entry.name] = np.zeros(num_rows(entry.tensor) * groups, np.uint8)
            self._rest[entry.name][first : first + len(zeros)] = zeros

    def _late(self) -> Iterable[tuple[int, bytes]]:
        for name, zeros in self._rest.items():
            yield self.planes[name].zeros, _nibbles(zeros).tobytes()
        self._rest.clear()


def _scale_of(kind: CodeGroups) -> str:
    return SCALE if kind.group else ROW_SCALE


def _nibbles(values: U8) -> U8:
    """Two values in a byte, the first of them low."""
    padded = np.pad(values, (0, len(values) % 2))
    return np.bitwise_or(padded[0::2], padded[1::2] << 4, dtype=np.uint8)


def joined(
    kind: CodeGroups, start: int, stop: int, cols: int, read: Callable[[int, int, int], U8]
) -> U8:
    """Rows [start, stop) of a matrix as its encoding holds them, uint8 [rows, row bytes].

    Args:
        kind: Of the matrix.
        start, stop: Its rows.
        cols: Of a row.
        read: Bytes [first, stop) of its codes, scales or zeros, which are 0, 1 and 2.
    """
    rows, groups = stop - start, kind.count(cols)
    size, wide = cols * kind.bits // 8, 2 * groups
    codes = read(0, start * size, stop * size).reshape(rows, size)
    scales = read(1, start * wide, stop * wide).reshape(rows, wide)
    zeros: U8 | None = None
    if kind.zero:
        first, last = start * groups, stop * groups
        if kind.bits == 8:
            zeros = read(2, first, last)
        else:
            packed = read(2, first // 2, -(-last // 2))
            pairs = np.stack([packed & 15, packed >> 4], axis=1).astype(np.uint8).reshape(-1)
            zeros = pairs[first % 2 :][: last - first]
    return kind.join(codes, scales, zeros)
