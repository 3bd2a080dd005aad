"""Tensors of an MLX folder as lazy float tensors: codes of any mode, width and group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from kanna import encodings
from kanna._util.typed import TypedObject, shown, whole
from kanna.encodings import Encoding, affine_codes
from kanna.encodings.grouped import affine, mx
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.formats.mlx import layout
from kanna.formats.safetensors.read import maker
from kanna.formats.stored_file import Part
from kanna.formats.text_files import read_json
from kanna.model import F32, U8, Tensor

_PARTS = ("weight", "scales", "biases")
_SAYS, _AGAIN = "as config.json says", "fetch config.json and the weights again, from one place"


@dataclass(slots=True)
class Packed:
    """A matrix of codes and scales, or a stack of them, decoded row by row.

    Attributes:
        planes: The tensors of its encoding's planes, in order.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    planes: list[Tensor]

    @property
    def dtype(self) -> str:
        """Name of the encoding."""
        return self.encoding.name

    @property
    def nbytes(self) -> int:
        """Bytes of all planes."""
        return sum(p.nbytes for p in self.planes)

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        return self.encoding.decode(self.raw(start, stop), self.shape[-1])

    def raw(self, start: int, stop: int) -> U8:
        """Rows [start, stop) with their planes joined, uint8 [rows, row bytes]."""
        return self.encoding.join([self._plane(p, start, stop) for p in self.planes])

    def _plane(self, plane: Tensor, start: int, stop: int) -> U8:
        data: Part | None = getattr(plane, "data", None)
        if data is None:
            raise SourceError(f"the values of {plane.name} were not fetched")
        size = plane.nbytes // prod(self.shape[:-1])
        return data.read(start * size, stop * size).reshape(stop - start, size)


def as_published(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a folder as Hugging Face stores them, and the config of the model itself.

    Stacks of experts stay stacks, under the names that families give them.
    """
    text = config.get("text_config")
    own = dict(text) if isinstance(text, dict) else dict(config)
    names = layout.of(own)
    if not names.wrapped:
        own = dict(config)
    back = (names.back(name, tensor) for name, tensor in tensors.items())
    return dict(back), own


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Whether config.json has settings as mlx-lm writes them."""
    settings = config.get("quantization")
    return isinstance(settings, dict) and "group_size" in settings and "bits" in settings


def is_folder(folder: Path) -> bool:
    """Whether a folder was written for mlx-lm, by config.json or the metadata of its weights."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        config = read_json(path)
    except FormatError:
        return False
    if isinstance(config, dict) and is_mlx(config):
        return True
    first = min(folder.glob("*.safetensors"), default=None)
    return first is not None and maker(first) == "mlx"


def unpacked(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors with each packed matrix as one of floats.

    Raises:
        UnsupportedError: A matrix is stored in an unknown mode.
        FormatError: The parts of a matrix do not fit together.
    """
    settings = TypedObject.of(config, "config.json").part("quantization")
    tensors_by_name: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base, _, kind = name.rpartition(".")
        if f"{base}.scales" not in tensors or kind not in (*_PARTS, "global_scale"):
            tensors_by_name[name] = tensor
        elif kind == "weight":
            # Of a matrix that is not quantized, mlx-lm writes false.
            own = isinstance(settings.values.get(base), Mapping)
            tensors_by_name[name] = _packed(base, tensors, settings.part(base) if own else settings)
    return tensors_by_name


def _encoding(base: str, scales: Tensor, own: TypedObject) -> Encoding:
    """The encoding of a packed matrix, by its settings and the type of its scales."""
    mode = own.values.get("mode", "affine")
    given = own.values.get("bits"), own.values.get("group_size")
    bits, group = (whole().convert(value) for value in given)
    has = f"{base} has {shown(given[0])} bits in groups of {shown(given[1])}"
    known = {m.name: m for m in mx.MODES}
    if not isinstance(mode, str) or mode not in ("affine", *known):
        raise UnsupportedError(
            f"{base} is stored in mode {shown(mode)}", expected=_list(("affine", *known))
        )
    if mode != "affine":
        if (bits, group) != (known[mode].bits, known[mode].group):
            raise FormatError(
                has,
                expected=f"{known[mode].bits} bits in groups of {known[mode].group} in mode {mode}",
            )
        return encodings.get(mx.name_of(mode))
    if bits not in affine_codes.BITS or group not in affine_codes.GROUPS:
        raise FormatError(
            has,
            expected=f"{_list(affine_codes.BITS)} bits in groups of {_list(affine_codes.GROUPS)}",
        )
    if scales.dtype not in affine.NUMBERS:
        raise FormatError(f"{base}.scales hold {scales.dtype}", expected=_list(affine.NUMBERS))
    assert bits is not None and group is not None
    return encodings.get(affine.name_of(bits, group, scales.dtype))


def _packed(base: str, tensors: Mapping[str, Tensor], own: TypedObject) -> Packed:
    if f"{base}.global_scale" in tensors:
        raise UnsupportedError(
            f"{base} has a scale for the whole matrix", expected="scales of groups alone"
        )
    encoding = _encoding(base, tensors[f"{base}.scales"], own)
    names = [f"{base}.{p.name}" for p in encoding.planes]
    if any(name not in tensors for name in names) or (f"{base}.biases" in tensors) != (
        len(encoding.planes) == 3
    ):
        raise FormatError(
            f"{base} is no packed matrix", expected=f"{', '.join(p.name for p in encoding.planes)}"
        )
    planes = [tensors[name] for name in names]
    weight = planes[0]
    if weight.dtype != "u32" or len(weight.shape) not in (2, 3) or 0 in weight.shape:
        raise FormatError(
            f"{base} is no packed matrix", expected="weight in 32-bit words, scales and biases"
        )
    bits, group = int(encoding.settings["bits"]), encoding.block
    *rows, words = weight.shape
    cols = words * 32 // bits
    if cols % group:
        raise FormatError(
            f"{base} has rows of {cols} values",
            expected=f"a multiple of {group}, {_SAYS}",
            todo=_AGAIN,
        )
    for plane, part in zip(encoding.planes[1:], planes[1:], strict=True):
        if tuple(part.shape) != (*rows, cols // group) or part.dtype != plane.dtype:
            raise FormatError(
                f"{part.name} has shape {list(part.shape)} of {part.dtype}",
                expected=f"{[*rows, cols // group]} of {plane.dtype}: {bits} bits in groups of"
                f" {group}, {_SAYS}",
                todo=_AGAIN,
            )
    return Packed(f"{base}.weight", (*rows, cols), encoding, planes)


def _list(items: Any) -> str:
    return ", ".join(map(str, items))
