"""What an adapter is, in whichever layout it came: changes to tensors of a base model, all lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from kanna.model import F32, U8, Tensor, columns, num_rows

DRAFT_HEAD = "draft_head.safetensors"
"""Beside an adapter: its model's own head for further tokens, trained to guess what it writes."""


class Factor(Protocol):
    """One of the two thin matrices of a low-rank change, read in row blocks."""

    @property
    def name(self) -> str:
        """Of the tensor that it is read from."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        ...


@dataclass(frozen=True, slots=True)
class Transposed:
    """A stored matrix with rows and columns exchanged; the whole of it is read each time."""

    inner: Factor

    @property
    def name(self) -> str:
        """Of the stored matrix."""
        return self.inner.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Columns and rows of the stored matrix."""
        return self.inner.shape[::-1]

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), which are columns where they are stored."""
        whole = self.inner.rows(0, self.inner.shape[0])
        return np.ascontiguousarray(whole[:, start:stop].T)


@dataclass(slots=True)
class FactorTensor:
    """A factor as a tensor that can be written, each value times a number."""

    name: str
    inner: Factor
    ratio: float = 1.0
    dtype: str = "f32"
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.inner.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are read here."""
        return 4 * prod(self.shape)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop) as float32 [stop - start, columns]."""
        values = self.inner.rows(start, stop)
        return values if self.ratio == 1.0 else values * np.float32(self.ratio)

    def raw(self, start: int, stop: int) -> U8 | None:
        """None: the values are computed."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """A low-rank change of one matrix: W + scale · left · right, or DoRA's.

    Attributes:
        left: [rows, rank], LoRA's B (of an embedding its A, transposed).
        right: [rank, columns], LoRA's A (of an embedding its B, transposed).
        scale: alpha / rank, alpha / √rank of rsLoRA, or what mlx-lm calls scale.
        magnitude: DoRA's length of each row, [rows]; None: plain LoRA.
        embedding: Whether it looks rows up in place of multiplying by them.
    """

    left: Factor
    right: Factor
    scale: float
    magnitude: Tensor | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """Columns of the left matrix."""
        return self.left.shape[-1]

    def tensors(self, name: str) -> tuple[FactorTensor, FactorTensor]:
        """Left and right matrix as tensors, called after the module."""
        return FactorTensor(f"{name}.left", self.left), FactorTensor(f"{name}.right", self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it changes."""
        return self.left.shape[0], self.right.shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRows:
    """Rows of a matrix that were trained by themselves: those of some tokens.

    Attributes:
        places: Which rows of the matrix they are.
        values: [places, columns].
    """

    places: Sequence[int]
    values: Tensor


@dataclass(slots=True, kw_only=True)
class LoraAdapter:
    """An adapter as it was saved, with nothing read but headers.

    Attributes:
        given: As the user named it.
        path: Its folder.
        layout: Who saves adapters like this one: `PEFT` or `mlx-lm`.
        base: The base model that it names, or "".
        revision: The revision of it that it names, or "".
        architecture: The class of its base in transformers that it names, or "".
        low_rank: Module → its low-rank change.
        bias: Module → what is added to its bias, with the factor.
        replaced: Tensor → all of its values, trained in full.
        rows: Module → some rows of its matrix.
        draft_head: Tensor of the model's own head for further tokens → all of its values; what the
            model says does not depend on them.
        ties: Whether a change of the embedding is one of the head that is the same matrix.
        alpha: The alpha that most modules have, for formats that name it.
        weight_files: Files that hold its values, and say how strong they are.
        files: Other files of its folder, by name.
        notes: What the user must know.
    """

    given: str
    path: Path
    layout: str
    base: str = ""
    revision: str = ""
    architecture: str = ""
    low_rank: dict[str, LowRank] = field(default_factory=dict[str, LowRank])
    bias: dict[str, tuple[Tensor, float]] = field(default_factory=dict[str, tuple[Tensor, float]])
    replaced: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    rows: dict[str, NewRows] = field(default_factory=dict[str, NewRows])
    draft_head: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    ties: bool = False
    alpha: float = 0.0
    weight_files: list[Path] = field(default_factory=list[Path])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    notes: list[str] = field(default_factory=list[str])

    @property
    def modules(self) -> list[str]:
        """Every module that it changes."""
        whole = [name.rpartition(".")[0] for name in self.replaced]
        return list(dict.fromkeys([*self.low_rank, *self.bias, *self.rows, *whole]))

    @property
    def num_parameters(self) -> int:
        """Values that were trained."""
        thin = sum(c.rank * sum(c.shape) for c in self.low_rank.values())
        longs = [c.magnitude for c in self.low_rank.values() if c.magnitude is not None]
        others = [t for t, _ in self.bias.values()] + [r.values for r in self.rows.values()]
        every = [*longs, *others, *self.replaced.values()]
        return thin + sum(num_rows(t) * columns(t) for t in every)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLayout:
    """A way of saving adapters; each file beside this one that knows one exports it as LAYOUT.

    Attributes:
        title: As people call it.
        summary: What it is, in a line.
        weights: Name of the file with the values.
        recognizes: Whether a folder, by its files, is saved this way.
        read: Reads one: what the user named, its files by name.
    """

    title: str
    summary: str
    weights: str
    recognizes: Callable[[Mapping[str, Path]], bool]
    read: Callable[[str, Path, Mapping[str, Path]], LoraAdapter]
