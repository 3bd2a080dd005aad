"""Sizes and offsets of a GGUF file before its first byte is written."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanna.errors import FormatError
from kanna.formats.gguf.cursor import SCALARS, Strings
from kanna.formats.gguf.read import DEFAULT_ALIGNMENT, MAGIC
from kanna.model import MetaValue, ValueType
from kanna.plan.types import TensorPlan

VERSION = 3
_FIXED = 4 + 4 + 8 + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything lies: `header` is written first, tensor i at byte `offsets[i]` of the file.

    Attributes:
        places: First and last byte of every metadata value in the header.
    """

    header: bytes
    offsets: list[int]
    total_bytes: int
    places: dict[str, tuple[int, int]]

    @property
    def data_bytes(self) -> int:
        """Bytes of the tensors and the padding between them."""
        return self.total_bytes - len(self.header)


def pack_metadata(metadata: Mapping[str, MetaValue]) -> bytes:
    """Keys, types and values as they lie in a file."""
    parts: list[bytes] = []
    for key, value in metadata.items():
        parts += [pack_string(key), struct.pack("<I", value.type), pack_value(key, value)]
    return b"".join(parts)


def alignment_of(metadata: Mapping[str, MetaValue]) -> int:
    """What offsets of tensors are multiples of, in bytes (`general.alignment`)."""
    alignment = metadata.get("general.alignment")
    return int(alignment.value) if alignment else DEFAULT_ALIGNMENT


def total_bytes(metadata_bytes: int, tensors: Sequence[TensorPlan], alignment: int) -> int:
    """Size of the file that `layout` would plan, from the packed size of its metadata."""
    header = _FIXED + metadata_bytes
    end = 0
    for entry in tensors:
        header += 8 + len(entry.name.encode()) + 4 + 8 * max(1, len(entry.tensor.shape)) + 4 + 8
        end = _align(end + entry.nbytes, alignment)
    return _align(header, alignment) + end


def layout(metadata: Mapping[str, MetaValue], tensors: Sequence[TensorPlan]) -> Layout:
    """Plan a GGUF file of these keys and tensors, aligned as `general.alignment` says."""
    alignment = alignment_of(metadata)
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    places: dict[str, tuple[int, int]] = {}
    at = _FIXED
    for key, value in metadata.items():
        head, data = pack_string(key) + struct.pack("<I", value.type), pack_value(key, value)
        parts += [head, data]
        places[key] = at + len(head), at + len(head) + len(data)
        at = places[key][1]
    relative: list[int] = []
    end = 0
    for entry in tensors:
        shape = entry.tensor.shape[::-1] or (1,)
        parts += [
            pack_string(entry.name),
            struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, entry.encoding.ggml_type, end),
        ]
        relative.append(end)
        end = _align(end + entry.nbytes, alignment)
    header = b"".join(parts)
    header += bytes(_align(len(header), alignment) - len(header))
    return Layout(
        header=header,
        offsets=[len(header) + at for at in relative],
        total_bytes=len(header) + end,
        places=places,
    )


def _align(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def pack_string(text: str) -> bytes:
    """A string as it lies in a file: its length in 8 bytes, then UTF-8."""
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def pack_value(key: str, value: MetaValue) -> bytes:
    """Bytes of one value; FormatError names the key when the value does not fit its type."""
    try:
        return _pack(value.value, value.type, value.item)
    except (struct.error, OverflowError, ValueError, TypeError) as error:
        raise FormatError(
            f"{key}: {value.value!r:.80} does not fit {value.type.name}: {error}"
        ) from None


def _pack(value: Any, kind: ValueType, item: ValueType | None) -> bytes:
    if kind is ValueType.STR:
        return pack_string(value)
    if kind is not ValueType.ARRAY:
        return _scalars([value], kind)
    if item is None:
        raise TypeError("an array needs its element type")
    head = struct.pack("<IQ", item, len(value))
    if isinstance(value, Strings):
        return head + bytes(value.data)
    if item is ValueType.STR:
        return head + _strings(value)
    if item is ValueType.ARRAY:
        return head + b"".join(_pack(v.value, v.type, v.item) for v in value)
    return head + _scalars(value, item)


def _strings(values: Iterable[str]) -> bytes:
    pack = struct.Struct("<Q").pack
    parts: list[bytes] = []
    for text in values:
        data = text.encode("utf-8", "surrogateescape")
        parts += [pack(len(data)), data]
    return b"".join(parts)


def _scalars(values: Any, kind: ValueType) -> bytes:
    array = np.asarray(values)
    dtype = np.dtype(SCALARS[kind])
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise OverflowError(f"outside {limits.min} to {limits.max}")
    return array.astype(dtype).tobytes()
