"""What an encoding is.

How blocks of values are stored, and the two functions between them and floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kanna.errors import EncodingError
from kanna.model import F32, U8


class Encode(Protocol):
    """Turns values into blocks; `Encoding.encode` checks the arguments."""

    def __call__(
        self,
        encoding: Encoding,
        x: F32,
        method: str,
        weights: F32 | None,
        threads: int,
        guessed: bool,
        /,
    ) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes]; see `Encoding.encode`."""
        ...


class Decode(Protocol):
    """Turns blocks into values; `Encoding.decode` checks the arguments."""

    def __call__(self, encoding: Encoding, data: U8, cols: int, /) -> F32:
        """Read uint8 [rows, row bytes] as float32 [rows, cols]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A part of every block that the file holds as a tensor of its own.

    Attributes:
        name: Last part of the tensor's name, such as `scales`.
        dtype: Of the values, such as `u32` or `bf16`.
        bytes: Of each block.
    """

    name: str
    dtype: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """A way to store values, `block` of them in `block_bytes` bytes.

    Attributes:
        name: The name in plans and options, in lower case.
        label: The name as people write it.
        block: Values of a block.
        block_bytes: Bytes of a block.
        row_scale: Bytes of a scale that a row has once, before its blocks; 0 where it has none.
        summary: What it is, in a line.
        ggml_type: ggml's type id; None for encodings of other formats (encodings/grouped).
        needs_weights: The encoder needs the importance of the columns.
        file_type: llama.cpp's file type (`general.file_type`) of a file that is all in this
            encoding; None where it has none.
        fallback: What rows get that are not a whole number of blocks; "" for float16.
        search_order: Place among the candidates of `kanna optimize`, lowest first; None where it
            tries this encoding only when a plan or option names it.
        factors: Where in a block the float16 numbers lie that all its values are proportional to.
        levels: Most different values among 32 neighbours, 4, 16 or 32; 0 where grid_detection does
            not look for this encoding.
        encoder: Turns values into blocks; None where kanna only reads the encoding.
        decoder: Turns blocks into values; None where they are only carried.
        planes: The parts of a block, in order, where a file holds them apart; () where it does not.
        settings: What MLX's config.json says of a matrix so stored.
        grid: The name that error feedback knows it by, where that is another; rows go there and
            back by to_grid and from_grid.
        to_grid: Rows as `grid` stores them.
        from_grid: Rows as this encoding stores them.
    """

    name: str
    label: str
    block: int
    block_bytes: int
    row_scale: int = 0
    summary: str = ""
    ggml_type: int | None = None
    needs_weights: bool = False
    file_type: int | None = None
    fallback: str = ""
    search_order: int | None = None
    factors: tuple[int, ...] = ()
    levels: int = 0
    encoder: Encode | None = None
    decoder: Decode | None = None
    planes: tuple[Plane, ...] = ()
    settings: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    grid: str = ""
    to_grid: Callable[[U8], U8] | None = None
    from_grid: Callable[[U8], U8] | None = None

    @property
    def bits(self) -> float:
        """Bits per weight, without the scale of a row."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` values.

        EncodingError when it is not a whole number of blocks.
        """
        if cols % self.block:
            raise EncodingError(
                f"{self.label} cannot hold rows of {cols} values",
                expected=f"a multiple of {self.block}",
                todo="choose another encoding for this tensor",
            )
        return self.row_scale + cols // self.block * self.block_bytes

    def split(self, data: U8) -> list[U8]:
        """Split rows, uint8 [rows, row bytes], into planes, uint8 [rows, blocks * plane bytes]."""
        rows, at = len(data), 0
        blocks = data.reshape(rows, -1, self.block_bytes)
        parts: list[U8] = []
        for plane in self.planes:
            parts.append(blocks[:, :, at : at + plane.bytes].reshape(rows, -1))
            at += plane.bytes
        return parts

    def join(self, planes: Sequence[U8]) -> U8:
        """Rows uint8 [rows, row bytes] of their planes, the inverse of `split`."""
        rows = len(planes[0])
        parts = [
            plane.reshape(rows, -1, p.bytes) for plane, p in zip(planes, self.planes, strict=True)
        ]
        return np.concatenate(parts, axis=2).reshape(rows, -1)

    def decode(self, data: U8, cols: int) -> F32:
        """Values of rows stored as uint8 [rows, row bytes], as float32 [rows, cols]."""
        if self.decoder is None:
            raise EncodingError(f"{self.label} is carried as it is, never decoded")
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != self.row_bytes(cols):
            raise EncodingError(
                f"{self.label} data has shape {data.shape}, dtype {data.dtype}",
                expected=f"uint8 [rows, {self.row_bytes(cols)}]",
            )
        return self.decoder(self, np.ascontiguousarray(data), cols)

    def encode(
        self,
        x: F32,
        *,
        method: str = "search",
        weights: F32 | None = None,
        threads: int = 1,
        guessed: bool = False,
    ) -> U8:
        """Store float32 [rows, cols] as uint8 [rows, row bytes].

        Args:
            x: The values.
            method: `search` or `nearest`.
            weights: Importance of the columns, float32 [cols].
            threads: Threads to use; the bytes do not depend on them.
            guessed: The weights were not measured but are those of plan/prior.py.

        Raises:
            EncodingError: The encoding cannot hold the values.
        """
        if self.encoder is None:
            raise EncodingError(f"{self.label} has no encoder", todo="choose another encoding")
        if x.ndim != 2 or x.dtype != np.float32:
            raise EncodingError(
                f"values have shape {x.shape}, dtype {x.dtype}", expected="float32 [rows, cols]"
            )
        self.row_bytes(x.shape[1])
        if weights is not None and weights.shape != (x.shape[1],):
            raise EncodingError(f"weights have shape {weights.shape}", expected=f"({x.shape[1]},)")
        # A tensor of a mapped file may begin at any byte.
        values = np.require(x, requirements=["C", "A"])
        return self.encoder(self, values, method, weights, threads, guessed)
