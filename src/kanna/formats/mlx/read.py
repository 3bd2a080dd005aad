"""Tensors of an MLX folder as lazy float tensors: affine codes of any width and group, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.encodings import _affine
from kanna.errors import FormatError, UnsupportedError
from kanna.formats.safetensors.read import Unreadable
from kanna.model import F32, Tensor

_MODES = ("affine",)


@dataclass(slots=True)
class Affine:
    """A matrix of affine codes, decoded row by row; bits and group follow from the shapes."""

    name: str
    shape: tuple[int, ...]
    bits: int
    codes: Unreadable
    scales: Tensor
    biases: Tensor

    @property
    def dtype(self) -> str:
        return self.scales.dtype

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes + self.biases.nbytes

    def rows(self, start: int, stop: int) -> F32:
        size = self.shape[1] * self.bits // 8
        data = np.ascontiguousarray(self.codes.data[start * size : stop * size].reshape(stop - start, size))
        codes = _affine.unpack(data, self.bits)
        return _affine.values(codes, self.scales.rows(start, stop), self.biases.rows(start, stop))

    def raw(self, start: int, stop: int) -> None:
        return None


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether config.json has settings as mlx-lm writes them."""
    found = config.get("quantization")
    return isinstance(found, dict) and "group_size" in found and "bits" in found


def unpacked(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one of floats.

    Raises UnsupportedError for a mode other than affine, FormatError for parts that do not fit together.
    """
    settings: dict[str, Any] = config["quantization"]
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base, _, kind = name.rpartition(".")
        if f"{base}.scales" not in tensors or kind not in ("weight", "scales", "biases"):
            found[name] = tensor
        elif kind == "weight":
            own = settings.get(base)
            found[name] = _affine_of(base, tensor, tensors, own if isinstance(own, dict) else settings)
    return found


def _affine_of(base: str, weight: Tensor, tensors: Mapping[str, Tensor], own: Mapping[str, Any]) -> Affine:
    mode, bits, group = own.get("mode", "affine"), own.get("bits"), own.get("group_size")
    if mode not in _MODES:
        raise UnsupportedError(f"{base} is stored in mode {mode!r}", expected=", ".join(_MODES))
    scales, biases = tensors[f"{base}.scales"], tensors.get(f"{base}.biases")
    if bits not in _affine.BITS or group not in _affine.GROUPS:
        raise FormatError(
            f"{base} has {bits!r} bits in groups of {group!r}",
            expected=f"{', '.join(map(str, _affine.BITS))} bits in groups of {', '.join(map(str, _affine.GROUPS))}",
        )
    if not isinstance(weight, Unreadable) or weight.dtype != "u32" or len(weight.shape) != 2 or biases is None:
        raise FormatError(f"{base} is no packed matrix", expected="weight in 32-bit words, scales and biases")
    rows, cols = weight.shape[0], weight.shape[1] * 32 // bits
    if not tuple(scales.shape) == tuple(biases.shape) == (rows, cols // group) or cols % group:
        raise FormatError(f"{base}.scales has shape {list(scales.shape)}", expected=f"{[rows, cols // group]}")
    return Affine(f"{base}.weight", (rows, cols), bits, weight, scales, biases)
