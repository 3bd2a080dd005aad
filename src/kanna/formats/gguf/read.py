"""Read a GGUF file that may be hostile.

Every count and offset is checked against the bytes that are there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, overload

import numpy as np

from kanna import encodings
from kanna.errors import FormatError, KannaError
from kanna.formats.stored import HeaderTensor, StoredTensor, map_file
from kanna.model import U8, MetaValue, Tensor, ValueType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_KEY = 65_535
MAX_DEPTH = 4
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

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
# Smallest size of one entry, to refuse counts that the file cannot hold before anything is
# allocated.
_LEAST_KV, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


class Strings(Sequence[str]):
    """An array of strings in a mapped file, decoded when asked for.

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


@dataclass(slots=True, kw_only=True)
class GGUFFile:
    """A GGUF file, or all parts of a split one, with nothing read but its header.

    Attributes:
        metadata: Keys → typed values, in file order, without the split.* keys.
        tensors: By name, in file order.
        num_remote_bytes: Of a file that was not fetched; None where it is here.
    """

    paths: list[Path]
    version: int
    alignment: int
    metadata: dict[str, MetaValue]
    tensors: dict[str, Tensor]
    num_remote_bytes: int | None = None

    @property
    def path(self) -> Path:
        """The file, or the first part."""
        return self.paths[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        if self.num_remote_bytes is not None:
            return self.num_remote_bytes
        return sum(p.stat().st_size for p in self.paths)

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key of the metadata, or `default` where it is absent."""
        entry = self.metadata.get(key)
        return default if entry is None else entry.value


def is_gguf(path: Path) -> bool:
    """True when the file begins with the magic of GGUF."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read(path: Path | str) -> GGUFFile:
    """Open a GGUF file; of a split one, give the first part.

    Raises FormatError, SourceError, UnsupportedError.
    """
    path = Path(path)
    first = _read_part(path)
    count = int(first.value("split.count", 0))
    if count <= 1:
        return _without_split_keys(first)
    return _without_split_keys(_join(path, first, count))


def read_header(path: Path, data: U8, size: int) -> GGUFFile:
    """What the first bytes of a file of `size` bytes say; its tensors have no values.

    Raises FormatError, SourceError, UnsupportedError; FormatError when the header is longer.
    """
    file = _parse(path, data, _Cursor(path, data), size)
    file.num_remote_bytes = size
    return file


def _join(path: Path, first: GGUFFile, count: int) -> GGUFFile:
    named = SHARD.fullmatch(path.name)
    if (
        named is None
        or int(named[3]) != count
        or int(first.value("split.no", 0)) != int(named[2]) - 1
    ):
        raise FormatError(
            f"{path.name} says it is part {int(first.value('split.no', 0)) + 1} of {count}",
            expected=f"a name such as NAME-00001-of-{count:05}.gguf that agrees with it",
            todo="rename the parts back to the names they were published under",
        )
    if int(named[2]) != 1:
        raise FormatError(
            f"{path.name} is not the first part of the model",
            todo=f"give {named[1]}-00001-of-{named[3]}.gguf",
        )
    for number in range(2, count + 1):
        other = path.with_name(f"{named[1]}-{number:05}-of-{named[3]}.gguf")
        if not other.is_file():
            raise FormatError(
                f"part {number} of {count} is missing: {other.name}",
                todo=f"put it beside {path.name}",
            )
        part = _read_part(other)
        if (again := set(part.tensors) & set(first.tensors)) != set():
            raise FormatError(f"{other.name} repeats the tensor {sorted(again)[0]}")
        first.tensors.update(part.tensors)
        first.paths.append(other)
    wanted = first.value("split.tensors.count")
    if wanted is not None and int(wanted) != len(first.tensors):
        raise FormatError(f"the parts hold {len(first.tensors)} tensors", expected=str(wanted))
    return first


def _without_split_keys(file: GGUFFile) -> GGUFFile:
    file.metadata = {k: v for k, v in file.metadata.items() if not k.startswith("split.")}
    return file


def _read_part(path: Path) -> GGUFFile:
    data = map_file(path)
    cursor = _Cursor(path, data)
    try:
        return _parse(path, data, cursor, data.size)
    except KannaError as error:
        raise type(error)(
            f"{path.name}: {error.found}", expected=error.expected, todo=error.todo
        ) from None


def _parse(path: Path, data: U8, cursor: _Cursor, size: int) -> GGUFFile:
    if (magic := bytes(cursor.take(4))) != MAGIC:
        raise FormatError(
            f"the file begins with {magic!r}", expected=repr(MAGIC), todo="give a GGUF file"
        )
    version = cursor.u32()
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise FormatError(
                "the file is big-endian",
                expected="little-endian",
                todo="fetch the little-endian file",
            )
        raise FormatError(
            f"GGUF version {version}",
            expected="2 or 3",
            todo="make the file again with a current tool",
        )
    num_tensors, num_kv = cursor.u64(), cursor.u64()
    if num_tensors * _LEAST_TENSOR + num_kv * _LEAST_KV > cursor.left:
        raise _cut(f"the header promises {num_tensors} tensors and {num_kv} keys", data.size)
    metadata: dict[str, MetaValue] = {}
    for _ in range(num_kv):
        key = cursor.string(MAX_KEY)
        if key in metadata:
            raise FormatError(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.value_type(), 0)
    alignment = (
        int(metadata["general.alignment"].value)
        if "general.alignment" in metadata
        else DEFAULT_ALIGNMENT
    )
    if alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise FormatError(
            f"general.alignment is {alignment}", expected="a power of two from 8 to 1048576"
        )
    infos = [cursor.tensor_info() for _ in range(num_tensors)]
    start = -(-cursor.at // alignment) * alignment
    tensors = _place(infos, data, start, alignment=alignment, size=size)
    return GGUFFile(
        paths=[path], version=version, alignment=alignment, metadata=metadata, tensors=tensors
    )


@dataclass(slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    encoding: encodings.Encoding
    offset: int
    size: int


def _place(
    infos: list[_Info], data: U8, start: int, *, alignment: int, size: int
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for info in infos:
        if info.name in tensors:
            raise FormatError(f"the tensor {info.name!r} occurs twice")
        begin = start + info.offset
        if info.offset % alignment:
            raise FormatError(
                f"{info.name} begins at {info.offset}", expected=f"a multiple of {alignment}"
            )
        if begin + info.size > size:
            raise FormatError(
                f"{info.name} ends at byte {begin + info.size}, the file at {size}: it is"
                " truncated",
                todo="fetch the file again",
            )
        if size > data.size:  # only the header is here
            tensors[info.name] = HeaderTensor(info.name, info.shape, info.encoding.name, info.size)
            continue
        tensors[info.name] = StoredTensor(
            info.name, info.shape, info.encoding, data[begin : begin + info.size]
        )
    end, before = 0, ""
    for info in sorted(infos, key=lambda i: i.offset):
        if info.offset < end:
            raise FormatError(f"{info.name} overlaps {before}")
        end, before = info.offset + info.size, info.name
    return tensors


def _cut(claim: str, size: int) -> FormatError:
    """The error for a header that goes on after the file of `size` bytes has ended."""
    return FormatError(
        f"{claim}, the file has {size} bytes: it is truncated or hostile",
        todo="fetch the file again",
    )


class _Cursor:
    """Reads values one after another and never past the end."""

    def __init__(self, path: Path, data: U8) -> None:
        self.data = data.data
        self.size, self.at = data.size, 0

    @property
    def left(self) -> int:
        return self.size - self.at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise _cut(f"the header wants {size} bytes at byte {self.at}", self.size)
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
                raise _cut(f"the header has an array of {count} arrays", self.size)
            return MetaValue([self.array(depth + 1) for _ in range(count)], ValueType.ARRAY, item)
        dtype = np.dtype(SCALARS[item])
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return MetaValue(
            values.astype(bool) if item is ValueType.BOOL else values, ValueType.ARRAY, item
        )

    def strings(self, count: int) -> Strings:
        if count * 8 > self.left:
            raise _cut(f"the header has an array of {count} strings", self.size)
        data, at = self.data[self.at :], 0
        starts: list[int] = []
        unpack, append = _U64.unpack_from, starts.append  # a vocabulary has half a million strings
        try:
            for _ in range(count):
                append(at)
                at += 8 + unpack(data, at)[0]
            self.take(at)
        except (struct.error, OverflowError, FormatError):
            raise _cut(
                f"an array of strings from byte {self.at} ends past the file", self.size
            ) from None
        return Strings(data[:at], starts)

    def tensor_info(self) -> _Info:
        name = self.string(MAX_KEY)
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
        return _Info(
            name, shape, encoding, offset, prod(shape[:-1]) * encoding.row_bytes(shape[-1])
        )
