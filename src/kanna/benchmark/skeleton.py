"""Files with the shapes of a model and values of chance, to be timed: what they say is nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from kanna import encodings
from kanna.conversion.base import ConversionRequest
from kanna.conversion.gguf import GGUFConversion
from kanna.formats import gguf
from kanna.model import F32, U8, MetaValue, Model, ValueType, columns, num_rows
from kanna.plan import roles
from kanna.plan.types import TensorPlan
from kanna.sources import Source

_VALUES = 1 << 17
"""Of the rows that are encoded, which a matrix repeats. They have some thousand scales: a CPU that
looks up the float32 of a 16-bit scale in a table is slower where these differ."""
_MOST_ROWS = 256
"""Rows that are encoded at most."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Repeated:
    """A tensor whose rows repeat a few encoded ones.

    Attributes:
        data: uint8 [a few, row bytes].
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: U8

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return num_rows(self) * self.data.shape[1]

    def raw(self, start: int, stop: int) -> U8:
        """Rows [start, stop), uint8 [rows, row bytes]."""
        return self.data[np.arange(start, stop) % len(self.data)]

    def rows(self, start: int, stop: int) -> F32:
        """The same, decoded."""
        return encodings.get(self.dtype).decode(self.raw(start, stop), columns(self))


class Skeletons:
    """What a GGUF of a model would be, cut to some of its layers, in any encodings.

    Attributes:
        layers: Of the whole model.
    """

    def __init__(self, source: Source, model: Model) -> None:
        """Plan the file of a model; no weight is read."""
        self._source, self._model = source, model
        work = GGUFConversion(source, model, None, ConversionRequest(preset="F16"))
        self._metadata, self._entries = work.metadata, work.resolved.entries
        self._blocks = f"{model.family}.block_count"
        self.layers = max((_layer(e.name) for e in self._entries), default=-1) + 1

    def preset(self, name: str) -> dict[str, str]:
        """Encodings that a preset gives every tensor. Raises KannaError where it cannot."""
        request = ConversionRequest(preset=name)
        work = GGUFConversion(self._source, self._model, None, request)
        return {e.name: e.encoding.name for e in work.resolved.entries}

    def write(self, path: Path, layers: int, chosen: Mapping[str, str]) -> None:
        """Write a file.

        Args:
            path: The file.
            layers: How many of the first it has.
            chosen: Encodings by tensor; others stay as a file of 16 bits has them.
        """
        entries: list[TensorPlan] = []
        for entry in self._entries:
            if _layer(entry.name) >= layers:
                continue
            encoding = encodings.get(chosen.get(entry.name, entry.encoding.name))
            tensor = Repeated(
                entry.name,
                entry.tensor.shape or (1,),
                encoding.name,
                few_rows(encoding.name, columns(entry.tensor), "norm" in entry.name),
            )
            entries.append(TensorPlan(name=entry.name, tensor=tensor, encoding=encoding))
        gguf.write(path, metadata=self._cut(layers), tensors=entries, overwrite=True)

    def _cut(self, layers: int) -> dict[str, MetaValue]:
        """Metadata for so many layers: lists with an entry per layer are cut, too."""
        metadata = dict(self._metadata)
        for key, value in metadata.items():
            if value.type != ValueType.ARRAY or key.startswith("tokenizer."):
                continue
            if len(value.value) == self.layers:
                metadata[key] = replace(value, value=value.value[:layers])
        if self._blocks in metadata:
            metadata[self._blocks] = replace(metadata[self._blocks], value=layers)
        return metadata


def matrices_of(model: Model, layers: int) -> dict[str, int]:
    """Columns of every matrix in the first layers, and of those in none.

    Args:
        model: With all of its layers.
        layers: How many.
    """
    return {
        name: columns(tensor)
        for name, tensor in model.tensors.items()
        if _layer(name) < layers and roles.quantizable(tensor) and len(tensor.shape) in (2, 3)
    }


def _layer(name: str) -> int:
    at = _LAYER.match(name)
    return int(at[1]) if at else -1


@cache
def few_rows(encoding: str, width: int, ones: bool = False) -> U8:
    """A few encoded rows: ones, or small numbers of chance; uint8 [rows, row bytes]."""
    count, random = max(8, min(_MOST_ROWS, _VALUES // width)), np.random.default_rng(0)
    rows = random.standard_normal((count, width), np.float32)
    rows *= np.float32(0.02) * np.exp2(random.uniform(-1, 1, (count, 1))).astype(np.float32)
    if ones:
        rows = np.ones((1, width), np.float32)
    return encodings.get(encoding).encode(rows)


def one_of_many(encoding: str, width: int, number: int) -> U8:
    """The same with other values for every number up to 255.

    A runtime may keep matrices of the same bytes once.
    """
    rows = few_rows(encoding, width).copy()
    rows[0, 0] ^= number  # of a code, which comes first, or the last bits of a float
    return rows
