"""A matrix of whole numbers with a scale and a zero per group: scale * (code - zero)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kanna import encodings
from kanna._util.typed import FieldKind, TypedObject, whole
from kanna.encodings import affine_codes
from kanna.encodings.grouped import affine
from kanna.errors import FormatError, SourceError, UnsupportedError
from kanna.formats.stored_file import Part
from kanna.model import F32, U8, Tensor

T = TypeVar("T")
U32 = NDArray[np.uint32]
I32 = NDArray[np.int32]
# Codes uint8 [rows, columns], scales f32 [rows, groups] and zeros f32 [rows, groups] of rows
# [start, stop).
Read = Callable[[int, int], "tuple[U8, F32, F32]"]


@dataclass(slots=True)
class Grouped:
    """A packed matrix, decoded row by row.

    Attributes:
        number: Type of the scales.
        order: Group of each column, int32 [columns], where columns were reordered; None: one after
            another.
        exact: Whether zeros are the middle, so that -scale * zero has the type of the scales.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    groups: int
    number: str
    read: Read
    nbytes: int
    order: I32 | None = None
    exact: bool = False

    @property
    def dtype(self) -> str:
        """The encoding of MLX that holds the same groups, or else the type of the scales."""
        group = self.shape[1] // self.groups
        if (
            self.bits not in affine_codes.BITS
            or group not in affine_codes.GROUPS
            or self.order is not None
        ):
            return self.number
        return affine.name_of(self.bits, group, self.number if self.exact else "f32")

    def rows(self, start: int, stop: int) -> F32:
        """Rows [start, stop), decoded, float32 [rows, columns]."""
        codes, scales, zeros = self.read(start, stop)
        if self.order is None:
            each = codes.reshape(len(codes), self.groups, -1).astype(np.float32) - zeros[..., None]
            return (each * scales[..., None]).reshape(codes.shape)
        return (codes.astype(np.float32) - zeros[:, self.order]) * scales[:, self.order]

    def raw(self, start: int, stop: int) -> U8 | None:
        """Rows [start, stop) in the encoding `dtype`, uint8 [rows, row bytes].

        None where it does not hold them exactly.
        """
        if self.dtype == self.number:
            return None
        codes, scales, zeros = self.read(start, stop)
        encoding = encodings.get(self.dtype)
        biases = -scales * zeros
        number = encoding.planes[1].dtype
        if not np.array_equal(affine_codes.rounded(biases, number), biases):
            return None
        return encoding.join(
            [affine_codes.pack(codes, self.bits), _stored(scales, number), _stored(biases, number)]
        )


def _stored(x: F32, number: str) -> U8:
    """Numbers float32 [rows, groups] in the type `number`, uint8 [rows, bytes]."""
    if number == "bf16":
        stored: Any = (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)
    else:
        stored = np.ascontiguousarray(x.astype(np.float16 if number == "f16" else np.float32))
    return stored.view(np.uint8).reshape(len(x), -1)


class _Recent:
    """The parts that were read last: columns of a matrix are asked for block by block."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._arrays: WeakKeyDictionary[Part, U8] = WeakKeyDictionary()

    def whole(self, part: Part) -> U8:
        """All bytes of a part; not to be written to."""
        with self._lock:
            array = self._arrays.pop(part, None)
        if array is None:
            array = part.read()
        with self._lock:
            self._arrays[part] = array
            sizes = [(key, each.size) for key, each in self._arrays.items()]
            spare = sum(size for _, size in sizes) - _RECENT_BYTES
            for key, size in sizes[:-1]:  # the oldest first, and never the newest
                if spare <= 0:
                    break
                del self._arrays[key]
                spare -= size
        return array


_RECENT_BYTES = 32 << 20
_recent = _Recent()


def words(tensor: Tensor, start: int = 0, stop: int | None = None) -> U32:
    """A tensor of 32-bit words as uint32 of its shape.

    Args:
        tensor: The tensor.
        start: First of its rows to read.
        stop: The row after the last one; None: all of them.

    Raises:
        FormatError: The tensor holds another type.
        SourceError: Its values were not fetched.
    """
    data: Part | None = getattr(tensor, "data", None)
    if tensor.dtype not in ("i32", "u32"):
        raise FormatError(f"{tensor.name} holds {tensor.dtype}", expected="32-bit words")
    if data is None:
        raise SourceError(f"the values of {tensor.name} were not fetched")
    if 0 in tensor.shape:
        raise FormatError(f"{tensor.name} has shape {list(tensor.shape)}", expected="values")
    if stop is None:
        return _recent.whole(data).view("<u4").reshape(tensor.shape)
    size = data.size // tensor.shape[0]
    return data.read(start * size, stop * size).view("<u4").reshape(-1, *tensor.shape[1:])


def numbers(tensor: Tensor) -> F32:
    """Scales as float32 of their shape."""
    return tensor.rows(0, tensor.shape[0] if len(tensor.shape) > 1 else 1).reshape(tensor.shape)


def spread_words(packed: U32, bits: int, count: int) -> U8:
    """The first `count` codes of each row of words uint32 [rows, words], lowest bits first.

    Widths that divide no word run on into the next one.
    """
    data = np.ascontiguousarray(packed).view(np.uint8).reshape(len(packed), -1)
    if bits in (2, 4, 8):
        per = 8 // bits
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return codes.reshape(len(packed), data.shape[1] * per)[:, :count].astype(np.uint8)
    most = data.shape[1] * 8 // bits
    single = np.unpackbits(data, axis=1, bitorder="little")[:, : most * bits].reshape(
        len(packed), most, bits
    )
    return np.packbits(single, axis=2, bitorder="little")[:, :count, 0]


def setting(
    settings: TypedObject,
    name: str,
    kind: FieldKind[T],
    known: tuple[T, ...],
    default: T | None = None,
) -> T:
    """A setting of one kind that must be one of `known`.

    Raises:
        FormatError: It is absent, or of another kind.
        UnsupportedError: It has another value.
    """
    value = settings.need(name, kind) if default is None else settings.get(name, kind, default)
    if value not in known:
        raise UnsupportedError(
            f"the checkpoint has {name} = {value!r}",
            expected=" or ".join(map(str, known)),
            todo="use the 16-bit release of this model",
        )
    return value


def group_size(settings: TypedObject, names: Sequence[str], columns: int) -> int:
    """Columns of a group, by the first of some names that is there; -1 there means all of them."""
    name = next((n for n in names if n in settings), names[0])
    size = settings.get(name, whole(-1), 128)
    if size == 0:
        raise FormatError(f"the checkpoint has {name} = 0", expected="a whole number from 1, or -1")
    return max(columns, 1) if size == -1 else size


def need(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A part of a packed matrix; FormatError when it is absent or of another shape."""
    if name not in tensors:
        raise FormatError(f"the checkpoint has no {name}", todo="fetch it again")
    if tuple(tensors[name].shape) != shape:
        raise FormatError(
            f"{name} has shape {list(tensors[name].shape)}", expected=str(list(shape))
        )
    return tensors[name]


def gathered(
    tensors: Mapping[str, Tensor], parts: Sequence[str], matrix: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """The tensors, with the parts of each packed matrix as one.

    Args:
        tensors: Tensors of the checkpoint, by name.
        parts: What the names of the parts end in; the first is that of the codes.
        matrix: Makes the matrix of a base name.
    """
    tensors_by_name: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base, _, kind = name.rpartition(".")
        if f"{base}.{parts[0]}" not in tensors or kind not in parts:
            tensors_by_name[name] = tensor
        elif kind == parts[0]:
            tensors_by_name[f"{base}.weight"] = matrix(base)
    return tensors_by_name
