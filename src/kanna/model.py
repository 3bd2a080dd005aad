"""The in-memory picture of a language model: metadata and lazy tensors, never the weights.

Tensors carry GGUF names (`blk.0.attn_q.weight`) and numpy-order shapes: the last axis is the
columns, everything before it is flattened to rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kanna.errors import KannaError, SourceError, UnsupportedError

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class Tensor(Protocol):
    """A tensor whose values are read in row blocks on demand."""

    @property
    def name(self) -> str:
        """Its GGUF name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """In numpy order, the columns last."""
        ...

    @property
    def dtype(self) -> str:
        """Name of the encoding the values are stored in, for example `bf16` or `q4_k`."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes where it is stored now."""
        ...

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        ...

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) as stored, uint8 [stop - start, row bytes]; None: computed."""
        ...


def columns(tensor: Tensor) -> int:
    """Length of the last axis; 1 of a scalar."""
    return tensor.shape[-1] if tensor.shape else 1


def num_rows(tensor: Tensor) -> int:
    """Product of all axes but the last."""
    return prod(tensor.shape[:-1])


ALREADY_QUANTIZED = "the source is already quantized"
"""How the note on such a source begins."""


def bits_per_weight(nbytes: int, weights: int) -> float:
    """Bits of a file per weight: of all its tensors, norms and scales among them.

    Every verb reports this figure. 0 where there are no weights.

    Args:
        nbytes: Bytes of the tensors; what else a container holds does not count.
        weights: How many weights they have.
    """
    return 8 * nbytes / weights if weights else 0.0


def num_weights(tensor: Tensor) -> int:
    """Product of all axes."""
    return prod(tensor.shape)


class ValueType(IntEnum):
    """GGUF metadata value types (ggml docs/gguf.md)."""

    U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARRAY, U64, I64, F64 = range(13)


@dataclass(frozen=True, slots=True)
class MetaValue:
    """One metadata value with its GGUF type; `item` is the element type of an array."""

    value: Any
    type: ValueType
    item: ValueType | None = None


def u32(value: int) -> MetaValue:
    """An unsigned 32-bit value."""
    return MetaValue(int(value), ValueType.U32)


def f32(value: float) -> MetaValue:
    """A 32-bit float."""
    return MetaValue(float(value), ValueType.F32)


def boolean(value: bool) -> MetaValue:
    """A truth value."""
    return MetaValue(bool(value), ValueType.BOOL)


def string(value: str) -> MetaValue:
    """A text."""
    return MetaValue(str(value), ValueType.STR)


def array(value: Any, item: ValueType) -> MetaValue:
    """An array whose elements have the type `item`."""
    return MetaValue(value, ValueType.ARRAY, item)


@dataclass(slots=True, kw_only=True)
class Model:
    """A source seen through its family.

    Attributes:
        family: GGUF architecture name (`llama`, `qwen2`, …).
        tensors: By GGUF name, in the order they are written.
        metadata: GGUF keys → typed values, without what a plan decides (file type, provenance).
        config: The source's own config.json ({} for a GGUF).
        notes: What the user must be told about this source (for example: already quantized).
        side_files: Files of the source's tokenizer and generation, which folders keep as they are.
        tokenizer_refusal: Why llama.cpp cannot have the tokenizer; None: it can.
        tokenizer_notes: What llama.cpp does otherwise with the tokenizer.
    """

    name: str
    family: str
    tensors: dict[str, Tensor]
    metadata: dict[str, MetaValue]
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[str] = field(default_factory=list[str])
    side_files: dict[str, Path] = field(default_factory=dict[str, Path])
    tokenizer_refusal: KannaError | None = None
    tokenizer_notes: list[str] = field(default_factory=list[str])

    @property
    def num_parameters(self) -> int:
        """Weights of all tensors."""
        return sum(num_weights(t) for t in self.tensors.values())

    def meta(self, key: str, default: Any = None) -> Any:
        """Value of a metadata key; `{arch}` in the key stands for the family."""
        entry = self.metadata.get(key.replace("{arch}", self.family))
        return default if entry is None else entry.value

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """A size that is one for the whole model, from the metadata.

        Args:
            key: As for `meta`.
            default: Where the key is absent; None: it must be there.
            least: The smallest value that makes sense.

        Raises:
            SourceError: It is absent, too small, or no whole number.
            UnsupportedError: Layers have different ones.
        """
        name = key.replace("{arch}", self.family)
        value = self.meta(key)
        if value is None and default is not None:
            return default
        if isinstance(value, np.ndarray | list) and len(value):  # one per layer
            if any(v != value[0] for v in value):
                raise UnsupportedError(
                    f"{name} differs between layers",
                    expected="one number for all layers",
                    todo="write a GGUF instead: there it stays as it is",
                )
            value = int(value[0])
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            has = "is absent" if value is None else f"is {value!r:.40}"
            raise SourceError(
                f"{name} {has}",
                expected=f"a whole number from {least}",
                todo="give the file of a whole language model",
            )
        return value

    def largest(self, key: str, default: int) -> int:
        """A size that may differ between layers: that of the layer with the most.

        Args:
            key: As for `meta`.
            default: Where the key is absent, or no layer has any.
        """
        value = self.meta(key)
        if isinstance(value, np.ndarray | list) and len(value):
            return max(int(v) for v in value) or default
        return self.whole(key, 0) or default
