"""Bytes of a folder of fixed shapes for any bits of its matrices, from one of them in 8 bits.

What is coded in 4 bits takes half of its bytes, and everything behind it in the external data moves
forward; offsets and lengths are text in the graphs, whose size follows. A plan is counted from a
few numbers per initializer, as protobuf writes them: a field of bytes is its tag, its length in
groups of 7 bits, and itself.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from kanna._util.disk import folder_size
from kanna.formats.onnx import files
from kanna.formats.onnx.external_data import EXTERNAL_BYTES
from kanna.formats.onnx.qdq import codes_name

_OBJECT = sys.getsizeof(b"")
"""What onnx counts of a tensor beside its bytes, when it decides where they lie."""


class CodeRoom:
    """The bytes of one folder, all files counted."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder of fixed shapes whose matrices have codes of 8 bits."""
        known = files.read_folder(folder)
        paths = [known.graph, *([known.prefill] if known.prefill else [])]
        self._graphs = [_Graph.of(files.load(path)) for path in paths]
        self._rest = folder_size(folder) - sum(path.stat().st_size for path in paths)

    def of(self, bits: Mapping[str, int]) -> int:
        """Bytes of the same folder with other codes.

        Args:
            bits: Of the codes of each matrix, by its initializer.
        """
        few = {codes_name(name) for name, width in bits.items() if width == 4}
        moves = _Moves.of(self._graphs[0].tensors, few)
        return self._rest - moves.saved[-1] + sum(g.moved(few, moves) for g in self._graphs)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An initializer.

    Attributes:
        nbytes: Of its message.
        bare: Of these, without its data or where that lies.
        length: Bytes of its data.
        offset: Where they begin in the external data; None: they lie in the graph.
    """

    name: str
    nbytes: int
    bare: int
    length: int
    offset: int | None

    @classmethod
    def of(cls, tensor: Any) -> _Tensor:
        """What counts of an onnx.TensorProto."""
        nbytes = tensor.ByteSize()
        if tensor.data_location != tensor.EXTERNAL:
            held = len(tensor.raw_data)
            return cls(tensor.name, nbytes, nbytes - _field(held), held, None)
        places = {entry.key: entry.value for entry in tensor.external_data}
        without = type(tensor)()
        without.CopyFrom(tensor)
        without.ClearField("external_data")
        without.ClearField("data_location")
        length, offset = int(places["length"]), int(places["offset"])
        return cls(tensor.name, nbytes, without.ByteSize(), length, offset)

    @property
    def halved(self) -> int:
        """Bytes of its codes, two of them in one."""
        return -(-self.length // 2)

    @property
    def comes_in(self) -> bool:
        """Whether halved codes are few enough to lie in the graph."""
        return self.halved + _OBJECT < EXTERNAL_BYTES

    def moved(self, is_few: bool, moves: _Moves) -> int:
        """Bytes of its message beside codes of 4 bits; `is_few`: it has such codes itself."""
        if is_few and (self.offset is None or self.comes_in):
            return self.bare + _field(self.halved)
        if self.offset is None:
            return self.nbytes
        length = self.halved if is_few else self.length
        before = moves.before(self.offset)
        return (
            self.nbytes + _digits(self.offset - before, self.offset) + _digits(length, self.length)
        )


@dataclass(frozen=True, slots=True)
class _Moves:
    """What matrices leave of the external data.

    Attributes:
        starts: Where they begin, in order.
        saved: Bytes that the first of them save, for every number of them from 0.
    """

    starts: Sequence[int]
    saved: Sequence[int]

    @classmethod
    def of(cls, tensors: Sequence[_Tensor], few: Set[str]) -> _Moves:
        """Those of the initializers of a graph, of which some get codes of 4 bits."""
        left = {
            t.offset: t.length - (0 if t.comes_in else t.halved)
            for t in tensors
            if t.offset is not None and t.name in few
        }
        starts = sorted(left)
        return cls(starts, [*accumulate((left[start] for start in starts), initial=0)])

    def before(self, offset: int) -> int:
        """Bytes by which what begins at an offset moves forward."""
        return self.saved[bisect_left(self.starts, offset)]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A graph by its initializers.

    Attributes:
        nodes: Bytes of the graph without them.
        model: Bytes of the model without the graph.
    """

    tensors: Sequence[_Tensor]
    nodes: int
    model: int

    @classmethod
    def of(cls, model: Any) -> _Graph:
        """What counts of an onnx.ModelProto."""
        tensors = [_Tensor.of(tensor) for tensor in model.graph.initializer]
        whole = model.graph.ByteSize()
        nodes = whole - sum(_field(tensor.nbytes) for tensor in tensors)
        return cls(tensors, nodes, model.ByteSize() - _field(whole))

    def moved(self, few: Set[str], moves: _Moves) -> int:
        """Bytes of the model where some initializers have codes of 4 bits."""
        held = sum(_field(tensor.moved(tensor.name in few, moves)) for tensor in self.tensors)
        return self.model + _field(self.nodes + held)


def _field(nbytes: int) -> int:
    """Bytes of a field of so many bytes, whose tag takes one."""
    return 1 + max(1, -(-nbytes.bit_length() // 7)) + nbytes


def _digits(new: int, old: int) -> int:
    """By how many digits a number grows."""
    return len(str(new)) - len(str(old))
