"""Tuning: what a file may still move when all encodings are chosen.

A safetensors file beside a plan, whose tensors are named, and their rows ordered, as in GGUF:

- TENSOR.scale, f16 [rows, blocks] or [rows, 1]: added to 1, what the factors of each block are
  multiplied by.
- TENSOR.offset, f16 [rows, blocks], of MLX alone: how many steps of its block are added to every
  value before that.
- TENSOR.rows, u8 [rows, row bytes]: encoded rows that take the place of those that a method
  would choose; scales and offsets count on top of them.
- TENSOR, f32 [values]: a vector that takes the place of the source's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna import encodings
from kanna._util.digest import sha256
from kanna._util.nearest import absent
from kanna.encodings.base import Encoding
from kanna.encodings.grouped.nbits import parse
from kanna.errors import NotFoundError, PlanError
from kanna.model import F32, U8, Tensor, columns, num_rows

SCALE, OFFSET, ROWS = ".scale", ".offset", ".rows"

_LARGEST = 65504.0
"""Of float16."""


def factors(encoding: Encoding) -> list[tuple[int, str]]:
    """Place in a block and type of the numbers that everything it decodes to is proportional to.

    Of MLX's affine groups the scale and then the bias, of ONNX's groups the scale; [] where there
    are none.
    """
    if encoding.factors:
        return [(at, "f16") for at in encoding.factors]
    if shifts(encoding):
        codes, scales, _ = encoding.planes
        return [(codes.bytes, scales.dtype), (codes.bytes + scales.bytes, scales.dtype)]
    kind = parse(encoding.name)
    return [(kind.code_bytes, "f16" if kind.half else "f32")] if kind else []


def shifts(encoding: Encoding) -> bool:
    """Whether a block has a bias of its own, so that its values can be moved by parts of a step."""
    return encoding.settings.get("mode") == "affine"


def steps(encoding: Encoding, data: U8, cols: int) -> F32:
    """The step of every block, f32 [rows, blocks], of rows uint8 [rows, row bytes]."""
    blocks = data.reshape(len(data), cols // encoding.block, encoding.block_bytes)
    return _get(blocks, *factors(encoding)[0])


def _get(blocks: U8, at: int, dtype: str) -> F32:
    kind = encodings.get(dtype)
    rows, count, _ = blocks.shape
    field = np.ascontiguousarray(blocks[:, :, at : at + kind.block_bytes]).reshape(rows, -1)
    return kind.decode(field, count)


def _put(blocks: U8, at: int, dtype: str, values: F32) -> None:
    kind = encodings.get(dtype)
    if dtype == "f16":
        values = np.clip(values, -_LARGEST, _LARGEST)
    made = kind.encode(np.ascontiguousarray(values), method="nearest")
    blocks[:, :, at : at + kind.block_bytes] = made.reshape(*blocks.shape[:2], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """An opened file. scales, offsets: f16 by tensor; rows: u8; vectors: f32 by tensor."""

    path: Path
    sha256: str
    scales: dict[str, Any]
    offsets: dict[str, Any]
    vectors: dict[str, F32]
    rows: dict[str, U8]

    def check(self, tensors: dict[str, Tensor]) -> None:
        """PlanError when it was made for another model."""
        parts = (self.scales, self.offsets, self.vectors, self.rows)
        for name, wanted in [item for part in parts for item in part.items()]:
            tensor = tensors.get(name)
            vector = name in self.vectors
            fits = tensor is not None and (
                wanted.shape == tensor.shape if vector else len(wanted) == num_rows(tensor)
            )
            if not fits:
                raise PlanError(
                    f"{self.path.name} was made for another model: {name} has the shape"
                    f" {wanted.shape}",
                    expected="the tuning of this plan's own model",
                )


def read(path: Path) -> Tuning:
    """Open a tuning; PlanError when it is absent or damaged."""
    from safetensors.numpy import load_file

    if not path.is_file():
        raise NotFoundError(
            absent(path), expected="the tuning that the plan names, beside the plan"
        )
    try:
        arrays = load_file(path)
    except Exception as error:  # safetensors raises several types of its own
        raise PlanError(f"{path} cannot be read: {error}", expected="a safetensors file") from error
    parts: dict[str, dict[str, Any]] = {SCALE: {}, OFFSET: {}, ROWS: {}, "": {}}
    for name, array in arrays.items():
        kind = next(end for end in parts if name.endswith(end))
        parts[kind][name.removesuffix(kind)] = array
    rows = [array for kind in (SCALE, OFFSET, ROWS) for array in parts[kind].values()]
    plain = all(array.dtype == np.uint8 for array in parts[ROWS].values())
    finite = all(np.isfinite(v).all() for v in arrays.values())
    if not (finite and plain) or any(v.ndim != 2 for v in rows):
        raise PlanError(
            f"{path} holds values that are no numbers, or not in rows",
            expected="a tuning kanna wrote",
        )
    return Tuning(
        path=path,
        sha256=sha256(path),
        scales=parts[SCALE],
        offsets=parts[OFFSET],
        vectors=parts[""],
        rows=parts[ROWS],
    )


def scaled(encoding: Encoding, data: U8, cols: int, scale: Any, offset: Any = None) -> U8:
    """Encoded rows with their blocks moved by `offset` steps, then times 1 + `scale`.

    Zeros and codes stay.

    Args:
        encoding: What the rows are encoded in.
        data: The rows, uint8 [rows, row bytes].
        cols: Values in a row.
        scale: f16 [rows, blocks] or [rows, 1].
        offset: f16 [rows, blocks], or None.
    """
    blocks = cols // encoding.block
    out = np.array(data, np.uint8).reshape(len(data), blocks, encoding.block_bytes)
    times = 1 + np.broadcast_to(scale, (len(data), blocks)).astype(np.float32)
    fields = factors(encoding)
    values = [_get(out, at, dtype) for at, dtype in fields]
    if offset is not None:
        values[1] += values[0] * np.asarray(offset, np.float32)
    for (at, dtype), value in zip(fields, values, strict=True):
        _put(out, at, dtype, value * times)
    return out.reshape(data.shape)


@dataclass(slots=True)
class Vector:
    """A vector in the place of a tensor of the source."""

    name: str
    values: F32
    dtype: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        """[values]."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the values in float32."""
        return self.values.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """The values as rows [start, stop), float32 [stop - start, columns]."""
        return self.values.reshape(-1, columns(self))[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        """The same rows as bytes, uint8 [stop - start, row bytes]."""
        return np.ascontiguousarray(self.rows(start, stop)).view(np.uint8)


@dataclass(slots=True)
class EncodedRows:
    """Encoded rows in the place of a matrix of the source.

    Attributes:
        data: uint8 [rows, row bytes], in the encoding `dtype`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: U8

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.data.nbytes

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), float32 [stop - start, columns]."""
        return encodings.get(self.dtype).decode(self.data[start:stop], columns(self))

    def raw(self, start: int, stop: int) -> U8 | None:
        """The same rows as they are stored, uint8 [stop - start, row bytes]."""
        return self.data[start:stop]
