"""Bytes of a folder of fixed shapes for any bits of its matrices, from one of them in 8 bits.

What is coded in 4 bits takes half of its bytes, and everything behind it in the external data moves
forward; offsets and lengths are text in the graphs, whose size follows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
        self._graphs: list[Any] = [files.load(path) for path in paths]
        self._rest = folder_size(folder) - sum(path.stat().st_size for path in paths)

    def of(self, bits: Mapping[str, int]) -> int:
        """Bytes of the same folder with other codes.

        Args:
            bits: Of the codes of each matrix, by its initializer.
        """
        few = {codes_name(name) for name, width in bits.items() if width == 4}
        saved = _saved(self._graphs[0], few)
        graphs = sum(_moved(graph, few, saved) for graph in self._graphs)
        return graphs + self._rest - sum(saved.values())


def _places(tensor: Any) -> dict[str, Any]:
    """The entries of external data of an initializer, by key; {} where it lies in the graph."""
    return {e.key: e for e in tensor.external_data} if tensor.data_location == 1 else {}


def _saved(model: Any, few: set[str]) -> dict[int, int]:
    """Bytes that matrices save in the external data, by where they begin now."""
    saved: dict[int, int] = {}
    for tensor in model.graph.initializer:
        if tensor.name in few and (places := _places(tensor)):
            length = int(places["length"].value)
            inside = length // 2 + _OBJECT < EXTERNAL_BYTES
            saved[int(places["offset"].value)] = length if inside else length // 2
    return saved


def _moved(model: Any, few: set[str], saved: Mapping[int, int]) -> int:
    """Bytes of a graph once its matrices have moved."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        places, is_few = _places(tensor), tensor.name in few
        if not places:
            if is_few:
                tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
            continue
        at, length = int(places["offset"].value), int(places["length"].value)
        if is_few and saved[at] == length:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = bytes(length // 2)
            continue
        before = sum(nbytes for start, nbytes in saved.items() if start < at)
        places["offset"].value = str(at - before)
        if is_few:
            places["length"].value = str(length - saved[at])
    return copy.ByteSize()
