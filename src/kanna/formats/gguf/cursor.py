"""Values of a GGUF header, read one after another and never past its end."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import overload

import numpy as np

from kanna import encodings
from kanna._util.typed import is_plain
from kanna.errors import FormatError
from kanna.model import U8, MetaValue, ValueType

MAX_DIMENSIONS = 4
MAX_KEY = 65_535
MAX_DEPTH = 4
MAX_ARRAYS = 1 << 15
"""Arrays within arrays: no key in use has any, and each takes more memory than its bytes."""

SCALARS: dict[ValueType, str] = {
    ValueType.U8: "<u1",
    ValueType.I8: "<i1",
    ValueType.U16: "<u2",
    ValueType.I16: "<i2",
    ValueType.U32: "<u4",
    ValueType.I32: "<i4",
    ValueType.F32: "<f4",
    ValueType.BOOL: "<u1",
    ValueType.U64: "<u8",
    ValueType.I64: "<i8",
    ValueType.F64: "<f8",
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Strings(Sequence[str]):
    """An array of strings of a header, decoded when asked for.

    Bytes that are not UTF-8 become lone surrogates, so that they are written back as they were.
    """

    def __init__(self, data: memoryview, starts: list[int]) -> None:
        self.data, self._starts = data, starts

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(at) for at in self._starts[index]]
        return self._decode(self._starts[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._decode, self._starts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self.data == other.data
        return isinstance(other, Sequence) and list(self) == list(other)  # pyright: ignore[reportUnknownVariableType]

    __hash__ = None  # type: ignore[assignment]

    def _decode(self, at: int) -> str:
        (size,) = _U64.unpack_from(self.data, at)
        return bytes(self.data[at + 8 : at + 8 + size]).decode("utf-8", "surrogateescape")


@dataclass(slots=True)
class TensorInfo:
    """What the header says of one tensor; its size in bytes follows from shape and encoding."""

    name: str
    shape: tuple[int, ...]
    encoding: encodings.Encoding
    offset: int
    size: int


def cut(claim: str, size: int) -> FormatError:
    """The error for a header that goes on after the file of `size` bytes has ended."""
    return FormatError(
        f"{claim}, the file has {size} bytes: it is truncated or hostile",
        todo="fetch the file again",
    )


class LongerError(Exception):
    """The header goes on after the bytes that were read, to `num_bytes` at least."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


class Cursor:
    """Reads values one after another and never past the end.

    Args:
        data: The first bytes of a file.
        size: Bytes of the file; None: it has no others.
    """

    def __init__(self, data: U8, size: int | None = None) -> None:
        self.data = data.data
        self.size, self.at = data.size if size is None else size, 0
        self._arrays = 0

    @property
    def left(self) -> int:
        return self.size - self.at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise cut(f"the header wants {size} bytes at byte {self.at}", self.size)
        if self.at + size > self.data.nbytes:
            raise LongerError(self.at + size)
        self.at += size
        return self.data[self.at - size : self.at]

    def u32(self) -> int:
        return _U32.unpack(self.take(4))[0]

    def u64(self) -> int:
        return _U64.unpack(self.take(8))[0]

    def string(self, limit: int) -> str:
        size = self.u64()
        if size > limit:
            raise FormatError(f"a name of {size} bytes at {self.at}", expected=f"at most {limit}")
        return bytes(self.take(size)).decode("utf-8", "surrogateescape")

    def value_type(self) -> ValueType:
        number = self.u32()
        if number > max(ValueType):
            raise FormatError(
                f"unknown value type {number} at byte {self.at - 4}", expected="0 to 12"
            )
        return ValueType(number)

    def value(self, kind: ValueType, depth: int) -> MetaValue:
        if kind is ValueType.STR:
            size = self.u64()
            return MetaValue(bytes(self.take(size)).decode("utf-8", "surrogateescape"), kind)
        if kind is ValueType.ARRAY:
            return self.array(depth + 1)
        dtype = np.dtype(SCALARS[kind])
        item = np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()
        return MetaValue(bool(item) if kind is ValueType.BOOL else item, kind)

    def array(self, depth: int) -> MetaValue:
        if depth > MAX_DEPTH:
            raise FormatError(f"arrays nested deeper than {MAX_DEPTH}")
        item, count = self.value_type(), self.u64()
        if item is ValueType.STR:
            return MetaValue(self.strings(count), ValueType.ARRAY, item)
        if item is ValueType.ARRAY:
            if count * 12 > self.left:
                raise cut(f"the header has an array of {count} arrays", self.size)
            self._arrays += count
            if self._arrays > MAX_ARRAYS:
                raise FormatError(
                    f"the header has {self._arrays} arrays within arrays",
                    expected=f"at most {MAX_ARRAYS}",
                )
            return MetaValue([self.array(depth + 1) for _ in range(count)], ValueType.ARRAY, item)
        dtype = np.dtype(SCALARS[item])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return MetaValue(
            values.astype(bool) if item is ValueType.BOOL else values, ValueType.ARRAY, item
        )

    def strings(self, count: int) -> Strings:
        if count * 8 > self.left:
            raise cut(f"the header has an array of {count} strings", self.size)
        data, at = self.data[self.at :], 0
        starts: list[int] = []
        unpack, append = _U64.unpack_from, starts.append  # a vocabulary has half a million strings
        try:
            for _ in range(count):
                append(at)
                at += 8 + unpack(data, at)[0]
            self.take(at)
        except (struct.error, OverflowError, FormatError):
            if self.at + at + 8 <= self.size and self.data.nbytes < self.size:
                raise LongerError(self.at + at + 8) from None
            raise cut(
                f"an array of strings from byte {self.at} ends past the file", self.size
            ) from None
        return Strings(data[:at], starts)

    def tensor_info(self) -> TensorInfo:
        name = self.string(MAX_KEY)
        if not name.isascii() and not is_plain(name):
            raise FormatError(f"a tensor has the name {name!r:.80}", expected="a name in UTF-8")
        num_dims = self.u32()
        if not 0 < num_dims <= MAX_DIMENSIONS:
            raise FormatError(
                f"{name} has {num_dims} dimensions", expected=f"1 to {MAX_DIMENSIONS}"
            )
        # ggml stores the fastest axis first.
        shape = tuple(self.u64() for _ in range(num_dims))[::-1]
        encoding = encodings.by_ggml_type(self.u32())
        offset = self.u64()
        if 0 in shape or prod(shape) > 1 << 56:
            raise FormatError(
                f"{name} has shape {list(shape)}", expected="axes whose product fits a file"
            )
        if shape[-1] % encoding.block:
            raise FormatError(
                f"{name} has rows of {shape[-1]} values in {encoding.label}",
                expected=f"a multiple of {encoding.block}",
            )
        return TensorInfo(
            name, shape, encoding, offset, prod(shape[:-1]) * encoding.row_bytes(shape[-1])
        )
