"""Tuning: what a file may still move when all codes are chosen. A safetensors file beside a plan.

TENSOR.scale   f16 [rows, blocks] or [rows, 1]  added to 1, what the float16 factors of each block are multiplied by
TENSOR         f32 [values]                     a vector that takes the place of the source's
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanna.digest import sha256
from kanna.encodings.base import Encoding
from kanna.errors import PlanError
from kanna.model import F32, U8, Tensor, columns, num_rows

SCALE = ".scale"

# Where the float16 numbers lie that everything a block decodes to is proportional to.
FIELDS: dict[str, tuple[int, ...]] = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_0": (0,),
    "q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
    "iq4_nl": (0,), "iq4_xs": (0,), "iq3_s": (0,), "iq3_xxs": (0,), "iq2_s": (0,), "iq2_xs": (0,), "iq2_xxs": (0,),
    "iq1_s": (0,),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """An opened file. scales: f16 by tensor; vectors: f32 by tensor."""

    path: Path
    sha256: str
    scales: dict[str, Any]
    vectors: dict[str, F32]

    def check(self, tensors: dict[str, Tensor]) -> None:
        """PlanError when it was made for another model."""
        for name, wanted in [*self.scales.items(), *self.vectors.items()]:
            tensor = tensors.get(name)
            vector = name in self.vectors
            fits = tensor is not None and (wanted.shape == tensor.shape if vector else len(wanted) == num_rows(tensor))
            if not fits:
                raise PlanError(
                    f"{self.path.name} was made for another model: {name} has the shape {wanted.shape}",
                    expected="the tuning of this plan's own model",
                )


def read(path: Path) -> Tuning:
    """Open a tuning; PlanError when it is absent or damaged."""
    from safetensors.numpy import load_file

    if not path.is_file():
        raise PlanError(f"{path} does not exist", expected="the tuning that the plan names, beside the plan")
    try:
        found = load_file(path)
    except Exception as error:  # safetensors raises several types of its own
        raise PlanError(f"{path} cannot be read: {error}", expected="a safetensors file") from error
    scales = {n.removesuffix(SCALE): v for n, v in found.items() if n.endswith(SCALE)}
    vectors = {n: v for n, v in found.items() if not n.endswith(SCALE)}
    if not all(np.isfinite(v).all() for v in found.values()) or any(v.ndim != 2 for v in scales.values()):
        raise PlanError(f"{path} holds values that are no numbers, or not in rows", expected="a tuning kanna wrote")
    return Tuning(path=path, sha256=sha256(path), scales=scales, vectors=vectors)


def scaled(encoding: Encoding, data: U8, scale: Any, cols: int) -> U8:
    """Encoded rows with the factors of their blocks times 1 + scale, rounded to float16; zeros and codes stay.

    data: u8 [rows, row bytes]; scale: f16 [rows, blocks] or [rows, 1]
    """
    blocks = cols // encoding.block
    out = np.array(data, np.uint8).reshape(len(data), blocks, encoding.block_bytes)
    times = 1 + np.broadcast_to(scale, (len(data), blocks)).astype(np.float32)
    for at in FIELDS[encoding.name]:
        field = np.ascontiguousarray(out[:, :, at : at + 2]).view(np.float16)[..., 0].astype(np.float32)
        moved = np.clip(field * times, -65504, 65504).astype(np.float16)
        out[:, :, at : at + 2] = np.ascontiguousarray(moved[..., None]).view(np.uint8)
    return out.reshape(data.shape)


@dataclass(slots=True)
class Vector:
    """A vector in the place of a tensor of the source."""

    name: str
    values: F32
    dtype: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def rows(self, start: int, stop: int) -> F32:
        return self.values.reshape(-1, columns(self))[start:stop]

    def raw(self, start: int, stop: int) -> U8 | None:
        return np.ascontiguousarray(self.rows(start, stop)).view(np.uint8)
